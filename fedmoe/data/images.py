"""Pictures by path, out of a folder or a tar archive, which is read through and never unpacked."""

import io
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fedmoe.errors import DataError

__all__ = ["Picture", "read_pictures"]

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".webp"})
GREY = frozenset({"1", "L", "LA"})
DEEP = frozenset({"I", "F", "I;16", "I;16B", "I;16L"})


@dataclass(frozen=True)
class Picture:
    """One decoded picture.

    Attributes:
        parts: its path below the folder or in the archive.
        pixels: uint8, `[height, width]` when it is grey, else `[height, width, 3]`.
        jpeg: whether it was stored with JPEG's losses.
    """

    parts: tuple[str, ...]
    pixels: NDArray[np.uint8]
    jpeg: bool


def read_pictures(root: Path) -> list[Picture]:
    """Returns all pictures under a folder or in a tar archive (plain, .gz, .bz2, .xz), sorted by path.

    Hidden files and files that are no pictures by their names are passed over.

    Raises:
        DataError: a picture or the archive is broken; the message names it.
    """
    files = _in_folder(root) if root.is_dir() else _in_archive(root)
    pictures = [_decoded(root, parts, content) for parts, content in files if _is_picture(parts)]
    return sorted(pictures, key=lambda picture: picture.parts)


def _is_picture(parts: tuple[str, ...]) -> bool:
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in parts)
    return not hidden and Path(parts[-1]).suffix.lower() in SUFFIXES


def _in_folder(root: Path) -> Iterator[tuple[tuple[str, ...], bytes]]:
    for path in root.rglob("*"):
        parts = path.relative_to(root).parts
        if _is_picture(parts) and path.is_file():
            yield parts, path.read_bytes()


def _in_archive(root: Path) -> Iterator[tuple[tuple[str, ...], bytes]]:
    try:
        # "r|*" goes through the archive once: looking members up one by one would unpack it again and again.
        with tarfile.open(root, "r|*") as archive:
            for member in archive:
                content = archive.extractfile(member) if member.isfile() else None
                if content is not None:
                    yield tuple(part for part in member.name.split("/") if part not in ("", ".")), content.read()
    except (OSError, tarfile.TarError) as error:  # a stream's unpacking errors come as `ReadError`
        raise DataError(
            f"{root} must be a folder or a whole tar archive of pictures: {error}; hint: fetch the file again"
        ) from error


def _decoded(root: Path, parts: tuple[str, ...], content: bytes) -> Picture:
    name = root.joinpath(*parts)
    try:
        with Image.open(io.BytesIO(content)) as image:
            if image.mode in DEEP:
                raise DataError(f"{name} must have 8 bits a channel; its mode is {image.mode}; hint: convert it first")
            pixels = np.asarray(image.convert("L" if image.mode in GREY else "RGB"))
            return Picture(parts, pixels, image.format == "JPEG")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{name} is a broken picture: {error}; hint: fetch it again, or take it out") from error
