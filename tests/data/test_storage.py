"""Files and folders appear whole or not at all."""

from pathlib import Path

import pytest

from fedmoe.data.storage import data_folder, existing_root, home, new_file, new_folder
from fedmoe.errors import DataError


def test_home_is_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDMOE_HOME", str(tmp_path / "own"))
    assert home() == tmp_path / "own"
    assert data_folder(None) == data_folder("") == tmp_path / "own" / "data"
    assert data_folder(str(tmp_path)) == tmp_path
    monkeypatch.delenv("FEDMOE_HOME")
    assert home() == Path.home() / ".cache" / "fedmoe"


def test_a_root_that_was_asked_for_must_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDMOE_HOME", str(tmp_path / "own"))
    assert existing_root(None) == tmp_path / "own" / "data"
    with pytest.raises(DataError, match=r"data\.root must be .* that exists"):
        existing_root(str(tmp_path / "slip"))


@pytest.mark.parametrize("opener", [new_file, new_folder])
def test_a_failed_block_leaves_nothing(tmp_path: Path, opener) -> None:
    def fail() -> None:
        with opener(tmp_path / "target") as draft:
            (draft / "part" if draft.is_dir() else draft).write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_failed_block_keeps_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("old")

    def fill_the_disk() -> None:
        with new_file(target) as draft:
            draft.write_text("half")
            raise OSError(28, "No space left on device")

    with pytest.raises(DataError, match="No space left"):
        fill_the_disk()
    assert target.read_text() == "old"
    with new_file(target) as draft:
        draft.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"


def test_the_first_folder_stays(tmp_path: Path) -> None:
    target = tmp_path / "target"
    with new_folder(target) as slow:
        (slow / "x").write_text("slow")
        with new_folder(target) as fast:
            (fast / "x").write_text("fast")
    assert (target / "x").read_text() == "fast"
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match="could not be written"), new_folder(tmp_path / "file" / "target"):
        pass
