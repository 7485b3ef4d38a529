"""Class folders and archives of them become a data set; anything else, a clear error."""

import logging
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedmoe.data.contracts import Dataset, LoadRequest
from fedmoe.data.datasets.imagefolder import load_imagefolder
from fedmoe.data.downloads import DataMissingError
from fedmoe.errors import DataError

CLASSES = ("ant", "bee", "cow")


def picture(path: Path, value: int, *, size: tuple[int, int] = (5, 4), mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    colour = (value, 255 - value, value // 2) if mode == "RGB" else value
    Image.new(mode, size, colour).save(path)


def split_tree(root: Path, *, suffix: str = "png", mode: str = "RGB") -> Path:
    """Makes 6 training and 2 test pictures a class; each picture's red value tells which one it is."""
    for label, name in enumerate(CLASSES):
        for index in range(8):
            part = "train" if index < 6 else "test"
            picture(root / part / name / f"{index}.{suffix}", 40 * label + 5 * index, mode=mode)
    return root


def load(root: Path) -> Dataset:
    return load_imagefolder(LoadRequest(root=str(root), seed=0, download_timeout=2))


def same(one: Dataset, two: Dataset) -> bool:
    return np.array_equal(one.x_NCHW, two.x_NCHW) and np.array_equal(one.y_N, two.y_N)


def test_split_folders_keep_their_split(tmp_path: Path) -> None:
    dataset = load(split_tree(tmp_path / "zoo"))
    assert (dataset.name, dataset.real, dataset.class_names) == ("zoo", True, CLASSES)
    assert dataset.x_NCHW.shape == (24, 3, 4, 5)
    red = dataset.x_NCHW[:, 0, 0, 0].astype(int)
    assert np.array_equal(red // 40, dataset.y_N)
    assert (red[:18] % 40 < 30).all()
    assert (red[18:] % 40 >= 30).all()
    assert dataset.num_train == 18


@pytest.mark.parametrize("suffix", ["tar", "tar.gz", "tar.xz", "tar.bz2"])
@pytest.mark.parametrize("around", ["", "zoo/", "./"])
def test_an_archive_is_what_it_holds(tmp_path: Path, suffix: str, around: str) -> None:
    tree = split_tree(tmp_path / "zoo")
    with tarfile.open(tmp_path / f"zoo-images.{suffix}", f"w:{suffix[4:]}") as archive:
        for path in sorted(tree.rglob("*.png"), reverse=True):
            archive.add(path, around + str(path.relative_to(tree)))
    dataset = load(tmp_path / f"zoo-images.{suffix}")
    assert dataset.name == "zoo"
    assert same(dataset, load(tree))


def test_class_folders_alone_give_a_sixth_of_each_class(tmp_path: Path) -> None:
    for label, name in enumerate(CLASSES):
        for index in range(12):
            picture(tmp_path / "zoo" / name / f"{index}.png", 60 * label + index)
    dataset = load(tmp_path / "zoo")
    assert np.bincount(dataset.y_N[: dataset.num_train]).tolist() == [10, 10, 10]
    assert np.bincount(dataset.y_N[dataset.num_train :]).tolist() == [2, 2, 2]
    assert len(np.unique(dataset.x_NCHW[:, 0, 0, 0])) == 36, "no picture is lost or doubled"
    assert same(dataset, load(tmp_path / "zoo"))


def test_jpeg_is_in_the_printed_name(tmp_path: Path) -> None:
    tree = split_tree(tmp_path / "cifar10-images", suffix="jpg")
    assert load(tree).name == "cifar10-jpeg"
    picture(tree / "train" / "ant" / "lossless.png", 3)
    assert load(tree).name == "cifar10"


def test_grey_stays_grey_until_a_coloured_picture_comes(tmp_path: Path) -> None:
    tree = split_tree(tmp_path / "zoo", mode="L")
    grey = load(tree)
    assert grey.x_NCHW.shape == (24, 1, 4, 5)
    picture(tree / "train" / "ant" / "z.png", 9)
    mixed = load(tree)
    assert mixed.x_NCHW.shape == (25, 3, 4, 5)
    assert np.array_equal(mixed.x_NCHW[0, 2], grey.x_NCHW[0, 0])


def test_the_most_common_size_wins_and_it_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tree = split_tree(tmp_path / "zoo")
    picture(tree / "train" / "ant" / "0.png", 0, size=(9, 9))
    with caplog.at_level(logging.WARNING):
        dataset = load(tree)
    assert dataset.x_NCHW.shape == (24, 3, 4, 5)
    assert dataset.x_NCHW[0, 1].tolist() == [[255] * 5] * 4
    assert "1 of 24 pictures are resized to 4x5" in caplog.text


def test_hidden_and_other_files_are_passed_over(tmp_path: Path) -> None:
    tree = split_tree(tmp_path / "zoo")
    before = load(tree)
    (tree / "README.md").write_text("about")
    (tree / "train" / "ant" / "._0.png").write_bytes(b"not a picture")
    (tree / "train" / "ant" / "notes.txt").write_text("about")
    assert same(before, load(tree))


def test_a_broken_picture_is_named(tmp_path: Path) -> None:
    tree = split_tree(tmp_path / "zoo", suffix="jpg")
    broken = tree / "test" / "bee" / "7.jpg"
    content = broken.read_bytes()
    for keep in (0, 10, len(content) // 2):
        broken.write_bytes(content[:keep])
        with pytest.raises(DataError, match=r"test/bee/7\.jpg is a broken picture"):
            load(tree)


@pytest.mark.parametrize("suffix", ["tar", "tar.gz", "tar.xz"])
def test_a_cut_archive_is_named_and_is_not_missing(tmp_path: Path, suffix: str) -> None:
    tree = split_tree(tmp_path / "zoo")
    # Noise that does not pack: only an archive longer than the reader's buffers breaks in the middle of reading.
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tree / "train" / "ant" / "0.png")
    path = tmp_path / f"zoo.{suffix}"
    with tarfile.open(path, f"w:{suffix[4:]}") as archive:
        archive.add(tree, "zoo")
    content = path.read_bytes()
    middle = len(content) // 2
    garbled = [content[:start] + bytes(byte ^ 0x5A for byte in content[start:]) for start in (512, middle)]
    for damaged in (b"", content[:100], content[:middle], *garbled):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=rf"{path}") as caught:
            load(path)
        assert not isinstance(caught.value, DataMissingError)


def test_wrong_layouts_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="must hold pictures"):
        load(tmp_path / "empty")
    picture(tmp_path / "flat" / "1.png", 1)
    with pytest.raises(DataError, match=r"must lie in a class folder; 1\.png"):
        load(tmp_path / "flat")
    tree = split_tree(tmp_path / "zoo")
    picture(tree / "test" / "dog" / "1.png", 1)
    with pytest.raises(DataError, match="train/ has no dog"):
        load(tree)
    with pytest.raises(DataError, match=r"needs data\.root"):
        load_imagefolder(LoadRequest(root=None, seed=0, download_timeout=2))
    picture(tmp_path / "deep" / "a" / "1.png", 1000, mode="I;16")
    with pytest.raises(DataError, match="8 bits a channel"):
        load(tmp_path / "deep")
