"""Prepared data: equal to what was loaded, addressed by content, shared by processes, loaded once."""

import importlib
import os
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fedmoe.data.content_cache import fingerprint_of
from fedmoe.data.contracts import Dataset, LoadRequest
from fedmoe.data.downloads import DataMissingError
from fedmoe.data.prepared import open_prepared, prepare
from fedmoe.errors import DataError, ReferenceError_

CALLS: list[LoadRequest] = []


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDMOE_HOME", str(tmp_path / "home"))
    CALLS.clear()


def ask(seed: int = 0, root: Path | None = None) -> LoadRequest:
    return LoadRequest(root=None if root is None else str(root), seed=seed, download_timeout=2)


def small(request: LoadRequest) -> Dataset:
    """A data set of its own: five classes, 40 + 10 images."""
    CALLS.append(request)
    stream = np.random.default_rng(request.seed)
    return Dataset(
        name="small",
        real=False,
        x_NCHW=stream.integers(0, 256, (50, 3, 6, 6), dtype=np.uint8),
        y_N=np.arange(50, dtype=np.int64) % 5,
        num_train=40,
        class_names=tuple("abcde"),
        natural_N=np.arange(50, dtype=np.int64) // 4,
    )


def failing(error: DataError):
    def loader(request: LoadRequest) -> Dataset:
        raise error

    return loader


def here(function) -> str:
    return f"{__name__}:{function.__name__}"


def put_in_place(monkeypatch: pytest.MonkeyPatch, name: str, function) -> None:
    """Lets the built-in data set `name` be loaded by `function`."""
    module = importlib.import_module(f"fedmoe.data.datasets.{name}")
    monkeypatch.setattr(module, module.__all__[0], function)


def equal(one: Dataset, two: Dataset) -> bool:
    arrays = [(one.x_NCHW, two.x_NCHW), (one.y_N, two.y_N), (one.natural_N, two.natural_N)]
    names = replace(one, x_NCHW=None, y_N=None, natural_N=None) == replace(two, x_NCHW=None, y_N=None, natural_N=None)
    return names and all(np.array_equal(a, b) for a, b in arrays if a is not None or b is not None)


@pytest.mark.parametrize("seed", range(3))
def test_what_is_opened_is_what_was_loaded(seed: int) -> None:
    prepared = prepare(here(small), ask(seed), source="")
    assert equal(prepared.dataset, small(ask(seed)))
    opened = open_prepared(prepared.fingerprint)
    assert equal(opened.dataset, prepared.dataset)
    for array in (opened.dataset.x_NCHW, opened.dataset.y_N, opened.dataset.natural_N):
        assert isinstance(array.base, np.memmap)
        assert not array.flags.writeable
    assert prepared.stand_in_for is None
    assert opened.folder == prepared.folder


def test_fingerprint_follows_every_part_of_the_content() -> None:
    dataset = small(ask())
    pixel, label, owner = dataset.x_NCHW.copy(), dataset.y_N.copy(), dataset.natural_N.copy()
    pixel[49, 2, 5, 5] ^= 1
    label[0] = 4
    owner[7] = 99
    changed = [
        replace(dataset, x_NCHW=pixel),
        replace(dataset, y_N=label),
        replace(dataset, natural_N=owner),
        replace(dataset, natural_N=None),
        replace(dataset, name="other"),
        replace(dataset, real=True),
        replace(dataset, num_train=39),
        replace(dataset, class_names=tuple("abcdf")),
        replace(dataset, x_NCHW=dataset.x_NCHW.reshape(50, 3, 4, 9)),
    ]
    fingerprints = [fingerprint_of(item) for item in [dataset, *changed]]
    assert len(set(fingerprints)) == len(fingerprints)
    assert fingerprint_of(small(ask())) == fingerprints[0]


def test_generated_data_is_loaded_once_a_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    put_in_place(monkeypatch, "clusters", small)
    first, again, other = (prepare("clusters", ask(seed), source="") for seed in (0, 0, 1))
    assert len(CALLS) == 2
    assert first.fingerprint == again.fingerprint != other.fingerprint


def test_real_data_is_loaded_once_for_all_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    put_in_place(monkeypatch, "digits", lambda request: replace(small(ask(0)), real=True))
    assert len({prepare("digits", ask(seed), source="").fingerprint for seed in range(3)}) == 1
    assert len(CALLS) == 1


def test_data_is_loaded_again_when_a_file_or_the_root_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_in_place(monkeypatch, "digits", small)
    root = tmp_path / "root"
    (root / "below").mkdir(parents=True)
    file = root / "below" / "file"
    file.write_text("a")
    grow, touch, add = lambda: file.write_text("ab"), lambda: os.utime(file, ns=(1, 1)), lambda: (root / "n").touch()
    steps = [lambda: None, grow, touch, add, file.unlink]
    for count, step in enumerate(steps, start=1):
        step()
        prepare("digits", ask(root=root), source="")
        prepare("digits", ask(root=root), source="")
        assert len(CALLS) == count
    prepare("digits", ask(root=tmp_path), source="")
    assert len(CALLS) == len(steps) + 1


def test_data_by_reference_is_always_loaded() -> None:
    for _ in range(2):
        prepare(here(small), ask(), source="")
    assert len(CALLS) == 2


def test_auto_takes_generated_data_and_says_so(monkeypatch: pytest.MonkeyPatch, caplog, tmp_path: Path) -> None:
    put_in_place(monkeypatch, "clusters", small)
    put_in_place(monkeypatch, "cifar100", failing(DataMissingError("nowhere to be had")))
    prepared = prepare("cifar100", ask(root=tmp_path), source="auto")
    assert prepared.stand_in_for == "cifar100"
    assert not prepared.dataset.real
    assert [ask()] == CALLS, "the root belongs to the missing data"
    assert "nowhere to be had" in caplog.text
    assert prepare("clusters", ask(), source="").fingerprint == prepared.fingerprint
    assert len(CALLS) == 1


@pytest.mark.parametrize("source", ["", "cifar100"])
def test_without_auto_missing_data_is_an_error(monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    put_in_place(monkeypatch, "clusters", small)
    put_in_place(monkeypatch, "cifar100", failing(DataMissingError("nowhere to be had")))
    with pytest.raises(DataMissingError, match="nowhere to be had"):
        prepare("cifar100", ask(), source=source)


def test_broken_data_is_never_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    put_in_place(monkeypatch, "clusters", small)
    put_in_place(monkeypatch, "cifar100", failing(DataError("cut short")))
    with pytest.raises(DataError, match="cut short"):
        prepare("cifar100", ask(), source="auto")
    assert CALLS == []


def test_an_unknown_data_set_is_refused_with_the_known() -> None:
    with pytest.raises(ReferenceError_, match=r"did you mean 'cifar10'\? known: cifar10, cifar100, clusters"):
        prepare("cifar1", ask(), source="auto")


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"x_NCHW": np.zeros((50, 3, 6, 6), dtype=np.float32)}, "images must be uint8"),
        ({"x_NCHW": np.zeros((50, 6, 6), dtype=np.uint8)}, "images must be uint8"),
        ({"y_N": np.zeros(49, dtype=np.int64)}, "labels must be int64, one an image"),
        ({"y_N": np.zeros(50, dtype=np.int32)}, "labels must be int64, one an image"),
        ({"y_N": np.full(50, 5, dtype=np.int64)}, r"labels must lie in \[0,"),
        ({"num_train": 50}, "training and test samples"),
        ({"natural_N": np.zeros(3, dtype=np.int64)}, "one natural owner a sample"),
    ],
)
def test_a_loader_that_breaks_its_contract_is_named(monkeypatch, change: dict, rule: str) -> None:
    put_in_place(monkeypatch, "digits", lambda request: replace(small(request), **change))
    with pytest.raises(DataError, match=rf"data set 'digits': .*{rule}"):
        prepare("digits", ask(), source="")


def test_missing_and_damaged_folders_are_told_and_mended(monkeypatch: pytest.MonkeyPatch) -> None:
    put_in_place(monkeypatch, "digits", small)
    with pytest.raises(DataError, match="FEDMOE_HOME"):
        open_prepared("0" * 64)
    prepared = prepare("digits", ask(), source="")
    whole = (prepared.folder / "x.npy").read_bytes()
    for damage in (whole[:-1], whole[:50], b""):
        (prepared.folder / "x.npy").write_bytes(damage)
        with pytest.raises(DataError, match="is damaged"):
            open_prepared(prepared.fingerprint)
        mended = prepare("digits", ask(), source="")
        assert equal(mended.dataset, small(ask()))
        assert mended.folder == prepared.folder


def test_only_whole_things_lie_in_the_cache() -> None:
    prepared = prepare(here(small), ask(), source="")
    names = sorted(path.name for path in prepared.folder.parent.iterdir())
    assert names == [prepared.fingerprint]
    assert sorted(path.name for path in prepared.folder.iterdir()) == ["meta.json", "natural.npy", "x.npy", "y.npy"]


def test_a_full_disk_is_told_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(file, array) -> None:
        Path(file).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(DataError, match="could not be written: No space left"):
        prepare(here(small), ask(), source="")
    assert list((tmp_path / "home" / "cache" / "data").iterdir()) == []


def test_another_process_may_finish_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    save, inner = np.save, []

    def save_late(file, array) -> None:
        monkeypatch.setattr(np, "save", save)
        if not inner:  # in the middle of the first one's writing, the second one does all of its own
            inner.append(prepare(here(small), ask(), source=""))
        save(file, array)

    monkeypatch.setattr(np, "save", save_late)
    outer = prepare(here(small), ask(), source="")
    assert inner[0].fingerprint == outer.fingerprint
    assert equal(outer.dataset, small(ask()))
    assert [path.name for path in (tmp_path / "home" / "cache" / "data").iterdir()] == [outer.fingerprint]


def test_a_root_that_is_an_archive_is_told_apart_by_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_in_place(monkeypatch, "imagefolder", small)
    archive = tmp_path / "zoo.tar"
    with tarfile.open(archive, "w"):
        pass
    for _ in range(2):
        prepare("imagefolder", ask(root=archive), source="")
    assert len(CALLS) == 1
    archive.write_bytes(archive.read_bytes() + b"\0")
    prepare("imagefolder", ask(root=archive), source="")
    assert len(CALLS) == 2
