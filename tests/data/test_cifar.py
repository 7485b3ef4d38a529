"""CIFAR-100 and CIFAR-10, on small archives in their own format, hashes included."""

import hashlib
import io
import pickle
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import CIFAR10, CIFAR100

from fedmoe.data.contracts import LoadRequest
from fedmoe.data.datasets.cifar10 import load_cifar10
from fedmoe.data.datasets.cifar100 import load_cifar100
from fedmoe.data.downloads import DataMissingError
from fedmoe.errors import DataError


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDMOE_HOME", str(tmp_path / "home"))
    for kind in (CIFAR10, CIFAR100):
        monkeypatch.setattr(kind, "url", f"http://127.0.0.1:9/{kind.filename}")


def batch(kind: type[CIFAR10], num: int, stream: np.random.Generator) -> dict[str, object]:
    fine = stream.integers(0, 100 if kind is CIFAR100 else 10, num).tolist()
    data = stream.integers(0, 256, (num, 3072), dtype=np.uint8)
    if kind is CIFAR10:
        return {"data": data, "labels": fine, "batch_label": "a batch", "filenames": ["x.png"] * num}
    return {
        "data": data,
        "fine_labels": fine,
        "coarse_labels": [label // 5 for label in fine],
        "filenames": ["x"] * num,
    }


def write(kind: type[CIFAR10], folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, object]]:
    """Writes a small archive in the format of `kind` and makes its hashes the published ones; returns the batches."""
    stream = np.random.default_rng(7)
    names = [name for name, _ in [*kind.train_list, *kind.test_list]]
    batches = {name: batch(kind, 12 if "test" in name else 8, stream) for name in names}
    key = kind.meta["key"]
    batches[kind.meta["filename"]] = {key: [f"class {label}" for label in range(100 if kind is CIFAR100 else 10)]}
    md5 = {}
    folder.mkdir(parents=True)
    with tarfile.open(folder / kind.filename, "w:gz") as archive:
        for name, content in batches.items():
            packed = pickle.dumps(content, protocol=2)
            md5[name] = hashlib.md5(packed).hexdigest()
            member = tarfile.TarInfo(f"{kind.base_folder}/{name}")
            member.size = len(packed)
            archive.addfile(member, io.BytesIO(packed))
    monkeypatch.setattr(kind, "tgz_md5", hashlib.md5((folder / kind.filename).read_bytes()).hexdigest())
    monkeypatch.setattr(kind, "train_list", [[name, md5[name]] for name, _ in kind.train_list])
    monkeypatch.setattr(kind, "test_list", [[name, md5[name]] for name, _ in kind.test_list])
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": md5[kind.meta["filename"]]})
    return batches


def ask(root: Path) -> LoadRequest:
    return LoadRequest(root=str(root), seed=0, download_timeout=2)


def unpack(kind: type[CIFAR10], root: Path) -> None:
    with tarfile.open(root / kind.filename) as archive:
        archive.extractall(root, filter="data")


@pytest.mark.parametrize("place", ["archive", "folder", "root is the archive"])
@pytest.mark.parametrize(("kind", "load"), [(CIFAR10, load_cifar10), (CIFAR100, load_cifar100)])
def test_every_image_and_fine_label_arrives(kind, load, place: str, tmp_path: Path, monkeypatch) -> None:
    root = tmp_path / "root"
    batches = write(kind, root, monkeypatch)
    if place == "folder":
        unpack(kind, root)
        (root / kind.filename).unlink()
    before = sorted(path.name for path in root.iterdir())
    dataset = load(ask(root / kind.filename if place == "root is the archive" else root))
    parts = [batches[name] for name, _ in [*kind.train_list, *kind.test_list]]
    assert np.array_equal(dataset.x_NCHW.reshape(-1, 3072), np.concatenate([part["data"] for part in parts]))
    labels = [label for part in parts for label in part["fine_labels" if kind is CIFAR100 else "labels"]]
    assert dataset.y_N.tolist() == labels
    assert dataset.num_train == len(labels) - 12
    assert dataset.x_NCHW.shape[1:] == (3, 32, 32)
    assert list(dataset.class_names) == batches[kind.meta["filename"]][kind.meta["key"]]
    assert sorted(path.name for path in root.iterdir()) == before, "a loader writes nothing beside an archive"


def test_an_archive_of_another_hash_is_refused_unread(tmp_path: Path, monkeypatch) -> None:
    write(CIFAR100, tmp_path / "root", monkeypatch)
    archive = tmp_path / "root" / CIFAR100.filename
    monkeypatch.setattr(tarfile, "open", lambda *_, **__: pytest.fail("an archive of unknown origin was opened"))
    content = archive.read_bytes()
    for broken in (content[:-1], content + b"\0", b""):
        archive.write_bytes(broken)
        with pytest.raises(DataError, match="must have the MD5") as caught:
            load_cifar100(ask(tmp_path / "root"))
        assert not isinstance(caught.value, DataMissingError)
        assert str(archive) in str(caught.value)


@pytest.mark.parametrize("name", ["train", "test", "meta"])
def test_a_batch_of_another_hash_is_refused_unread(name: str, tmp_path: Path, monkeypatch) -> None:
    write(CIFAR100, tmp_path / "root", monkeypatch)
    unpack(CIFAR100, tmp_path / "root")
    path = tmp_path / "root" / CIFAR100.base_folder / name
    monkeypatch.setattr(pickle, "load", lambda *_, **__: pytest.fail("a pickle of unknown origin was loaded"))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match="and has another"):
        load_cifar100(ask(tmp_path / "root"))
    path.unlink()
    with pytest.raises(DataError, match="and is not there") as caught:
        load_cifar100(ask(tmp_path / "root"))
    assert str(path) in str(caught.value)


def test_missing_says_where_the_archive_goes(tmp_path: Path, monkeypatch) -> None:
    write(CIFAR100, tmp_path / "root", monkeypatch)
    shutil.rmtree(tmp_path / "root")
    (tmp_path / "root").mkdir()
    with pytest.raises(DataMissingError) as caught:
        load_cifar100(ask(tmp_path / "root"))
    for part in ("cifar-100-python.tar.gz", str(tmp_path / "root"), "hint: put it there by hand"):
        assert part in str(caught.value)
    assert list((tmp_path / "root").iterdir()) == []
