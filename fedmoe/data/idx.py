"""The idx format of the MNIST family: big-endian sizes, then bytes; plain or gzipped."""

import gzip
import math
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from fedmoe.data.contracts import Dataset
from fedmoe.errors import DataError

__all__ = ["IdxFile", "dataset_from_idx", "find_idx", "idx_file", "read_idx"]

# What opens a file, and the name to print when its content is broken.
IdxFile = tuple[Callable[[], IO[bytes]], str]

UNSIGNED_BYTES = 0x08


def find_idx(folders: list[Path], names: list[str]) -> list[IdxFile] | None:
    """Returns the files `names` out of the first folder that has all of them, plain or with `.gz`; `None`: none has."""
    for folder in folders:
        found = [
            next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None) for name in names
        ]
        present = [path for path in found if path is not None]
        if len(present) == len(names):
            return [idx_file(path) for path in present]
    return None


def idx_file(path: Path) -> IdxFile:
    """Returns a file on disk as `read_idx` wants it."""
    return (lambda: path.open("rb")), str(path)


def read_idx(file: IdxFile, num_dimensions: int) -> NDArray[np.uint8]:
    """Returns the array in an idx file of unsigned bytes.

    Raises:
        DataError: the file is cut short, too long, damaged, or of another type or number of dimensions.
    """
    opener, name = file
    try:
        with opener() as stream:
            packed = name.endswith(".gz")
            content = gzip.GzipFile(fileobj=stream).read() if packed else stream.read()
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise DataError(f"{name} is broken: {error}; hint: fetch the file again") from error
    start = 4 + 4 * num_dimensions
    magic = bytes([0, 0, UNSIGNED_BYTES, num_dimensions])
    if content[:4] != magic or len(content) < start:
        raise DataError(
            f"{name} must be an idx file of unsigned bytes with {num_dimensions} dimensions (begin {magic.hex()}); "
            f"it begins {content[:4].hex()!r}; hint: is it another file under this name, or a web page?"
        )
    shape = struct.unpack(f">{num_dimensions}I", content[4:start])
    if len(content) - start != math.prod(shape):
        raise DataError(
            f"{name} is broken: {list(shape)} needs {math.prod(shape)} bytes, it has {len(content) - start}; "
            "hint: fetch the file again"
        )
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape)


def dataset_from_idx(
    name: str, class_names: tuple[str, ...], files: list[IdxFile], *, transposed: bool = False
) -> Dataset:
    """Returns the data set in four idx files: training images and labels, test images and labels.

    Args:
        name: the data set's name.
        class_names: one a label.
        files: the four, in that order.
        transposed: the files hold columns for rows, as EMNIST's do; the images come out upright.

    Raises:
        DataError: a file is broken, or images and labels do not fit each other.
    """
    images = [read_idx(files[index], 3) for index in (0, 2)]
    labels = [read_idx(files[index], 1) for index in (1, 3)]
    for index in (0, 1):
        highest = int(labels[index].max(initial=0))
        if len(images[index]) != len(labels[index]) or highest >= len(class_names):
            raise DataError(
                f"{files[2 * index + 1][1]} must hold a label below {len(class_names)} for each of "
                f"{len(images[index])} images; got {len(labels[index])} labels up to {highest}; "
                "hint: fetch images and labels again, both from one place"
            )
    if images[0].shape[1:] != images[1].shape[1:]:
        raise DataError(
            f"{files[2][1]} must hold images of {images[0].shape[1:]}; got {images[1].shape[1:]}; "
            "hint: fetch both again"
        )
    num_train = len(images[0])
    height, width = images[0].shape[:0:-1] if transposed else images[0].shape[1:]
    x_NCHW = np.empty((num_train + len(images[1]), 1, height, width), dtype=np.uint8)
    x_NCHW[:num_train, 0] = images[0].swapaxes(1, 2) if transposed else images[0]
    x_NCHW[num_train:, 0] = images[1].swapaxes(1, 2) if transposed else images[1]
    return Dataset(
        name=name,
        real=True,
        x_NCHW=x_NCHW,
        y_N=np.concatenate(labels).astype(np.int64),
        num_train=num_train,
        class_names=class_names,
    )
