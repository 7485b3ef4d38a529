"""Any pictures in class folders, or a tar archive of them."""

import logging
from collections import Counter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fedmoe.data.contracts import Dataset, LoadRequest
from fedmoe.data.holdout import hold_out
from fedmoe.data.images import Picture, read_pictures
from fedmoe.data.storage import existing_root
from fedmoe.errors import DataError

__all__ = ["load_imagefolder"]

SPLITS = ("train", "test")
LAYOUT = "hint: <root>/train/<class>/1.png and <root>/test/<class>/2.png, or <root>/<class>/1.png alone"

_log = logging.getLogger(__name__)


def load_imagefolder(request: LoadRequest) -> Dataset:
    """Returns the pictures in the class folders at `request.root`, a folder or a tar archive (plain, .gz, .bz2, .xz).

    With `train/` and `test/` above the class folders that is the split; with class folders alone, a sixth of each
    class is held out for the test, always the same sixth. All grey: one channel, else three. Pictures of another size
    than the most common one are resized to it, and a warning says how many.

    Raises:
        DataError: no root, no pictures, another layout, or a broken file.
    """
    if not request.root:
        raise DataError("imagefolder needs data.root, a folder or an archive of pictures; it is empty; " + LAYOUT)
    root = existing_root(request.root)
    pictures = _below_common_folder(read_pictures(root))
    if not pictures:
        raise DataError(f"{root} must hold pictures, and holds none; " + LAYOUT)
    split = {picture.parts[0] for picture in pictures} <= set(SPLITS)
    depth = 1 if split else 0
    for picture in pictures:
        if len(picture.parts) < depth + 2:
            raise DataError(
                f"{root}: every picture must lie in a class folder; {'/'.join(picture.parts)} does not; " + LAYOUT
            )
    class_names = sorted({picture.parts[depth] for picture in pictures})
    y_N = np.array([class_names.index(picture.parts[depth]) for picture in pictures], dtype=np.int64)
    name = _printed_name(root, pictures)
    train_ids, test_ids = _split(root, pictures, y_N, class_names) if split else hold_out(name, y_N, 1 / 6)
    order = np.concatenate([train_ids, test_ids])
    return Dataset(
        name=name,
        real=True,
        x_NCHW=_stacked(root, [pictures[index] for index in order]),
        y_N=y_N[order],
        num_train=len(train_ids),
        class_names=tuple(class_names),
    )


def _below_common_folder(pictures: list[Picture]) -> list[Picture]:
    """Returns the pictures without folders that hold everything, as archives often have one around all."""
    tops = {picture.parts[0] for picture in pictures}
    while len(tops) == 1 and not tops & set(SPLITS) and all(len(picture.parts) > 2 for picture in pictures):
        pictures = [Picture(picture.parts[1:], picture.pixels, picture.jpeg) for picture in pictures]
        tops = {picture.parts[0] for picture in pictures}
    return pictures


def _split(
    root: Path, pictures: list[Picture], y_N: NDArray[np.int64], class_names: list[str]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    in_test = np.array([picture.parts[0] == SPLITS[1] for picture in pictures])
    for name, chosen in zip(SPLITS, (~in_test, in_test), strict=True):
        lacking = set(range(len(class_names))) - set(y_N[chosen].tolist())
        if lacking:
            names = ", ".join(class_names[label] for label in sorted(lacking))
            raise DataError(f"{root}: train/ and test/ must hold the same classes; {name}/ has no {names}; " + LAYOUT)
    return np.flatnonzero(~in_test), np.flatnonzero(in_test)


def _stacked(root: Path, pictures: list[Picture]) -> NDArray[np.uint8]:
    sizes = Counter(picture.pixels.shape[:2] for picture in pictures)
    height, width = sizes.most_common(1)[0][0]
    unequal = len(pictures) - sizes[height, width]
    if unequal:
        _log.warning("%s: %d of %d pictures are resized to %dx%d", root, unequal, len(pictures), height, width)
    grey = all(picture.pixels.ndim == 2 for picture in pictures)
    x_NCHW = np.empty((len(pictures), 1 if grey else 3, height, width), dtype=np.uint8)
    for index, picture in enumerate(pictures):
        pixels = picture.pixels
        if pixels.shape[:2] != (height, width):
            pixels = np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))
        # A grey picture [H, W] among coloured ones fills all three channels.
        x_NCHW[index] = pixels if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    return x_NCHW


def _printed_name(root: Path, pictures: list[Picture]) -> str:
    stem = root.name if root.is_dir() else root.name.partition(".tar")[0].removesuffix(".tgz")
    stem = stem.removesuffix("-images") or "imagefolder"
    return f"{stem}-jpeg" if all(picture.jpeg for picture in pictures) and not stem.endswith("-jpeg") else stem
