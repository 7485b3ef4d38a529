"""Laws of rounds.jsonl: what was appended is read, a torn line is no round, a full disk loses nothing."""

import errno
import os

import pytest

from fedmoe.errors import RunFolderError
from fedmoe.recording.rounds import append_round, read_rounds, truncate_rounds

LINES = [{"round": r, "train": {"loss": 1 / r}, "clients": list(range(r))} for r in range(1, 6)]


@pytest.fixture
def folder(tmp_path):
    for line in LINES:
        append_round(tmp_path, line)
    return tmp_path


def test_reads_what_was_appended(folder):
    assert read_rounds(folder / "rounds.jsonl") == LINES


def test_a_method_that_has_not_begun_has_no_rounds(tmp_path):
    assert read_rounds(tmp_path / "rounds.jsonl") == []


def test_wherever_a_kill_cuts_the_file_no_round_is_wrong(folder):
    path = folder / "rounds.jsonl"
    whole = path.read_bytes()
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        kept = read_rounds(path, torn_ok=True)
        assert kept == LINES[: whole[:cut].count(b"\n")]
        if cut and whole[cut - 1 : cut] != b"\n":
            with pytest.raises(RunFolderError, match="torn"):
                read_rounds(path)
            with pytest.raises(RunFolderError, match="torn"):
                append_round(folder, {"round": 9})


@pytest.mark.parametrize("keep", range(6))
def test_cutting_back_gives_the_bytes_of_a_run_that_stopped_there(folder, tmp_path_factory, keep):
    with (folder / "rounds.jsonl").open("ab") as file:
        file.write(b'{"round": 6, "tra')
    truncate_rounds(folder, keep)
    assert read_rounds(folder / "rounds.jsonl") == LINES[:keep]
    other = tmp_path_factory.mktemp("other")
    (other / "rounds.jsonl").touch()
    for line in LINES[:keep]:
        append_round(other, line)
    assert (folder / "rounds.jsonl").read_bytes() == (other / "rounds.jsonl").read_bytes()


def test_cutting_back_refuses_a_round_without_a_line(folder):
    before = (folder / "rounds.jsonl").read_bytes()
    with pytest.raises(RunFolderError, match="round 6"):
        truncate_rounds(folder, 6)
    assert (folder / "rounds.jsonl").read_bytes() == before


@pytest.mark.parametrize("last", [2, 3, 4])
def test_cutting_back_names_the_round_that_is_missing_in_the_middle(tmp_path, last):
    for number in (1, 3, 4):
        append_round(tmp_path, {"round": number})
    with pytest.raises(RunFolderError, match="got none for round 2"):
        truncate_rounds(tmp_path, last)
    assert len(read_rounds(tmp_path / "rounds.jsonl")) == 3


def test_cutting_back_what_is_not_there_leaves_nothing(tmp_path):
    truncate_rounds(tmp_path, 0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("bad", [b"nonsense\n", b"[1]\n", b'{"loss": 1}\n', b'{"round": true}\n', b"\n"])
@pytest.mark.parametrize("before", [0, 1])
def test_a_line_that_is_no_round_is_named(tmp_path, bad, before):
    path = tmp_path / "rounds.jsonl"
    path.write_bytes(b'{"round": 0}\n' * before + bad)
    with pytest.raises(RunFolderError, match=rf"rounds\.jsonl.*in line {before + 1}"):
        read_rounds(path, torn_ok=True)


@pytest.mark.parametrize("again", [1, 5])
def test_rounds_that_do_not_rise_are_named(folder, again):
    append_round(folder, {"round": again})
    with pytest.raises(RunFolderError, match=f"got round {again} after round 5"):
        read_rounds(folder / "rounds.jsonl")


def test_a_full_disk_leaves_the_file_as_it_was(folder, monkeypatch):
    before = (folder / "rounds.jsonl").read_bytes()

    def full(_handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(RunFolderError, match=r"rounds\.jsonl.*disk is full.*hint"):
            append_round(folder, {"round": 6})
    assert (folder / "rounds.jsonl").read_bytes() == before
    append_round(folder, {"round": 6})
    assert len(read_rounds(folder / "rounds.jsonl")) == 6


def test_a_diverged_loss_is_written_as_null(folder):
    append_round(folder, {"round": 6, "train": {"loss": float("nan")}})
    assert read_rounds(folder / "rounds.jsonl")[-1]["train"] == {"loss": None}
