"""A person's own pictures in the form of a run's data, with labels where their folders name its classes."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fedmoe.data.images import Picture, read_pictures
from fedmoe.errors import DataError

__all__ = ["OwnImages", "open_images"]

MANY = 8  # class names that a note spells out


@dataclass(frozen=True)
class OwnImages:
    """Pictures as a run's experts see them.

    Attributes:
        images: uint8 (N, channels, height, width).
        labels: int64 (N,), or `None` where they are not known.
        notes: what was done to them, and why there are no labels.
        files: each picture's path in the folder or archive.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64] | None
    notes: tuple[str, ...]
    files: tuple[str, ...]


def open_images(path: Path, shape: Sequence[int], class_names: Sequence[str]) -> OwnImages:
    """Returns the pictures in a folder or an archive, sorted by path.

    Args:
        path: a folder, or a tar archive, of pictures, in folders or not.
        shape: channels (1 or 3), height and width of the run's images.
        class_names: the run's. Where each picture lies in a folder of such a name, that is its label.

    Raises:
        DataError: there is nothing at `path`, no picture, or a broken one; or the run's images are no pictures.
    """
    if shape[0] not in (1, 3):
        raise DataError(f"pictures have 1 or 3 channels, got a run of images with {shape[0]}; hint: --client")
    if not path.exists():
        raise DataError(f"--images must be a folder or a tar archive of pictures, got '{path}': no such file or folder")
    pictures = read_pictures(path)
    if not pictures:
        raise DataError(
            f"--images must be a folder or a tar archive with pictures in it, got none in '{path}'; hint: files that "
            "end in .png, .jpg, .gif, .bmp, .tif or .webp count, hidden ones do not"
        )
    images = np.stack([_fitted(picture, shape) for picture in pictures])
    labels, why = _labels(pictures, class_names)
    files = tuple(os.fsencode("/".join(picture.parts)).decode(errors="replace") for picture in pictures)
    return OwnImages(images, labels, (*_changes(pictures, shape), *why), files)


def _fitted(picture: Picture, shape: Sequence[int]) -> NDArray[np.uint8]:
    """Returns the picture's pixels (channels, height, width)."""
    channels, height, width = shape
    image = Image.fromarray(picture.pixels).convert("L" if channels == 1 else "RGB")
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    pixels = np.asarray(image)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def _changes(pictures: Sequence[Picture], shape: Sequence[int]) -> list[str]:
    channels, height, width = shape
    resized = sum(picture.pixels.shape[:2] != (height, width) for picture in pictures)
    recoloured = sum((picture.pixels.ndim == 2) != (channels == 1) for picture in pictures)
    told = []
    if resized:
        told.append(
            f"{resized} of {len(pictures)} pictures were resized to {height} x {width}, the size that the experts were "
            "trained on."
        )
    if recoloured:
        colour = "grey" if channels == 1 else "three channels"
        told.append(f"{recoloured} of {len(pictures)} pictures were brought to {colour}, as in the training data.")
    return told


def _labels(
    pictures: Sequence[Picture], class_names: Sequence[str]
) -> tuple[NDArray[np.int64] | None, tuple[str, ...]]:
    folders = [picture.parts[-2] if len(picture.parts) > 1 else "" for picture in pictures]
    strange = sorted(set(folders) - set(class_names))
    if not strange:
        return np.array([class_names.index(folder) for folder in folders], dtype=np.int64), ()
    if not set(folders) & set(class_names):
        return None, ("No labels are known, so there is no accuracy: the pictures lie in no folders named by class.",)
    known = ", ".join(class_names[:MANY]) + (", ..." if len(class_names) > MANY else "")
    place = f"the folder '{strange[0]}'" if strange[0] else "no folder"
    count = sum(folder in strange for folder in folders)
    why = (
        f"No labels are used, so there is no accuracy: {count} of {len(pictures)} pictures lie in {place}"
        f"{' or others' if len(strange) > 1 else ''}, which names no class of the run ({known})."
    )
    return None, (why,)
