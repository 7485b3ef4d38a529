"""Fashion-MNIST and EMNIST: where their files may lie, and what happens to broken ones."""

import gzip
import importlib
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import EMNIST, FashionMNIST

from fedmoe.data.contracts import LoadRequest
from fedmoe.data.datasets.emnist import NAMES, load_emnist
from fedmoe.data.datasets.fashion_mnist import DEBIAN, load_fashion_mnist
from fedmoe.data.downloads import DataMissingError
from fedmoe.errors import DataError

FASHION = [name.removesuffix(".gz") for name, _ in FashionMNIST.resources]
REFUSING = "http://127.0.0.1:9/"


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDMOE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(FashionMNIST, "mirrors", [REFUSING])
    monkeypatch.setattr(EMNIST, "url", REFUSING + "gzip.zip")


@pytest.fixture
def _no_debian(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("fedmoe.data.datasets.fashion_mnist")
    monkeypatch.setattr(module, "DEBIAN", tmp_path / "nowhere")


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def contents(names: list[str], seed: int, num_classes: int) -> dict[str, bytes]:
    """Returns the four files of a small data set: 20 training and 7 test images of 28x28."""
    stream = np.random.default_rng(seed)
    files = {}
    for name in names:
        num = 20 if "train" in name else 7
        shape, high = ((num, 28, 28), 256) if "images" in name else ((num,), num_classes)
        files[name] = idx(stream.integers(0, high, shape, dtype=np.uint8))
    return files


def put(folder: Path, files: dict[str, bytes], *, packed: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / (name + ".gz" if packed else name)).write_bytes(gzip.compress(content) if packed else content)


def ask(root: Path | None) -> LoadRequest:
    return LoadRequest(root=None if root is None else str(root), seed=0, download_timeout=2)


@pytest.mark.usefixtures("_no_debian")
@pytest.mark.parametrize("below", ["FashionMNIST/raw", "."])
@pytest.mark.parametrize("packed", [True, False])
def test_fashion_mnist_reads_what_torchvision_reads(tmp_path: Path, below: str, packed: bool) -> None:
    files = contents(FASHION, seed=3, num_classes=10)
    put(tmp_path / "root" / below, files, packed=packed)
    put(tmp_path / "peer" / "FashionMNIST" / "raw", files, packed=False)
    dataset = load_fashion_mnist(ask(tmp_path / "root"))
    assert dataset.real
    assert dataset.x_NCHW.shape == (27, 1, 28, 28)
    for part, rows in ((True, slice(0, dataset.num_train)), (False, slice(dataset.num_train, None))):
        peer = FashionMNIST(tmp_path / "peer", train=part)
        assert np.array_equal(dataset.x_NCHW[rows, 0], peer.data.numpy())
        assert np.array_equal(dataset.y_N[rows], peer.targets.numpy())


@pytest.mark.usefixtures("_no_debian")
def test_fashion_mnist_missing_says_where_each_file_goes(tmp_path: Path) -> None:
    with pytest.raises(DataMissingError) as caught:
        load_fashion_mnist(ask(tmp_path))
    for part in [*FASHION, str(tmp_path / "FashionMNIST" / "raw"), "dataset-fashion-mnist"]:
        assert part in str(caught.value)


@pytest.mark.usefixtures("_no_debian")
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("which", FASHION)
def test_a_cut_file_is_named_and_is_not_missing(tmp_path: Path, which: str, packed: bool) -> None:
    put(tmp_path, contents(FASHION, seed=1, num_classes=10), packed=packed)
    broken = tmp_path / (which + ".gz" if packed else which)
    whole = broken.read_bytes()
    for keep in (0, 3, len(whole) // 2, len(whole) - 1):
        broken.write_bytes(whole[:keep])
        with pytest.raises(DataError, match=which) as caught:
            load_fashion_mnist(ask(tmp_path))
        assert not isinstance(caught.value, DataMissingError)


@pytest.mark.usefixtures("_no_debian")
def test_labels_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    files = contents(FASHION, seed=1, num_classes=10)
    for labels in (np.full(20, 10, dtype=np.uint8), np.zeros(19, dtype=np.uint8)):
        put(tmp_path, {**files, "train-labels-idx1-ubyte": idx(labels)}, packed=False)
        with pytest.raises(DataError, match="label below 10 for each of 20 images"):
            load_fashion_mnist(ask(tmp_path))


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="Debian's package dataset-fashion-mnist is not installed")
def test_fashion_mnist_from_debian(tmp_path: Path) -> None:
    dataset = load_fashion_mnist(ask(None))
    assert dataset.x_NCHW.shape == (70_000, 1, 28, 28)
    assert dataset.num_train == 60_000
    assert np.bincount(dataset.y_N[:60_000]).tolist() == [6_000] * 10
    # Trousers are narrow: a fact of the images that no mix-up of rows, labels or classes would keep.
    edges = [dataset.x_NCHW[dataset.y_N == label, 0, :, :4].mean() for label in range(10)]
    assert np.argmin(edges) == dataset.class_names.index("Trouser")


@pytest.mark.parametrize("place", ["EMNIST/raw", ".", "zip", "EMNIST/raw/zip", "root is the zip"])
def test_emnist_is_found_and_upright(tmp_path: Path, place: str) -> None:
    files = contents(NAMES, seed=5, num_classes=62)
    root = tmp_path / "root"
    if "zip" in place:
        folder = root / "EMNIST" / "raw" if place.startswith("EMNIST") else root
        folder.mkdir(parents=True)
        with zipfile.ZipFile(folder / "gzip.zip", "w") as archive:
            for name, content in files.items():
                archive.writestr(f"gzip/{name}.gz", gzip.compress(content))
        root = folder / "gzip.zip" if place == "root is the zip" else root
    else:
        put(root / place, files, packed=True)
    dataset = load_emnist(ask(root))
    first = np.frombuffer(files[NAMES[0]][16:], dtype=np.uint8).reshape(20, 28, 28)
    assert np.array_equal(dataset.x_NCHW[:20, 0], first.transpose(0, 2, 1))
    assert dataset.y_N[20:].tolist() == list(files[NAMES[3]][8:])
    assert len(dataset.class_names) == 62
    assert dataset.class_names[10] == "A"
    assert dataset.class_names[36] == "a"


def test_emnist_broken_archive_is_named(tmp_path: Path) -> None:
    (tmp_path / "gzip.zip").write_bytes(b"PK but not for long")
    with pytest.raises(DataError, match=r"gzip\.zip is broken") as caught:
        load_emnist(ask(tmp_path))
    assert not isinstance(caught.value, DataMissingError)


def test_emnist_damaged_in_the_middle_is_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "gzip.zip", "w") as archive:
        for name, content in contents(NAMES, seed=5, num_classes=62).items():
            archive.writestr(f"gzip/{name}.gz", gzip.compress(content))
    damaged = bytearray((tmp_path / "gzip.zip").read_bytes())
    damaged[2000:2100] = bytes(100)
    (tmp_path / "gzip.zip").write_bytes(damaged)
    with pytest.raises(DataError, match=rf"gzip\.zip/gzip/{NAMES[0]}\.gz is broken"):
        load_emnist(ask(tmp_path))


def test_emnist_missing_says_where_the_archive_goes(tmp_path: Path) -> None:
    with pytest.raises(DataMissingError, match=r"gzip\.zip") as caught:
        load_emnist(ask(None))
    assert str(tmp_path / "home" / "data" / "EMNIST" / "raw") in str(caught.value)
