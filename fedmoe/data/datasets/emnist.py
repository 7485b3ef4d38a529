"""EMNIST by class: 814,255 grey 28x28 images of handwritten digits and letters, 62 classes (arXiv:1702.05373)."""

import zipfile
from pathlib import Path

from torchvision.datasets import EMNIST

from fedmoe.data.contracts import Dataset, LoadRequest
from fedmoe.data.downloads import download_or_explain
from fedmoe.data.idx import IdxFile, dataset_from_idx, find_idx
from fedmoe.data.storage import existing_root
from fedmoe.errors import DataError

__all__ = ["load_emnist"]

NAMES = [f"emnist-byclass-{part}-{what}-ubyte" for part in ("train", "test") for what in ("images-idx3", "labels-idx1")]
ARCHIVE = "gzip.zip"


def load_emnist(request: LoadRequest) -> Dataset:
    """Returns EMNIST's split by class, upright (the files hold columns for rows), 1x28x28.

    Looked for: the four idx files, gzipped or not, or the archive `gzip.zip` that holds them, in `<root>/EMNIST/raw`
    (torchvision's place) or in `<root>`; then the archive is downloaded to torchvision's place. It is read as it is,
    never unpacked. The files do not say who wrote what, so there is no natural partition.

    Raises:
        DataMissingError: the files are nowhere.
        DataError: one of them is broken.
    """
    root = existing_root(request.root)
    raw = root / "EMNIST" / "raw"
    files = find_idx([raw, root], NAMES)
    if files is None:
        archives = [root, raw / ARCHIVE, root / ARCHIVE]
        archive = next((path for path in archives if path.is_file()), raw / ARCHIVE)
        wanted = {archive: (EMNIST.url, EMNIST.md5)}
        download_or_explain("emnist", wanted, timeout=request.download_timeout)
        files = [_member(archive, name) for name in NAMES]
    class_names = tuple(EMNIST.classes_split_dict["byclass"])
    return dataset_from_idx("emnist", class_names, files, transposed=True)


def _member(archive: Path, name: str) -> IdxFile:
    """Returns the archive's file `name`, in whatever folder it lies there."""
    try:
        with zipfile.ZipFile(archive) as opened:
            member = next((member for member in opened.namelist() if member.endswith(f"/{name}.gz")), None)
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{archive} is broken: {error}; hint: fetch the file again") from error
    if member is None:
        raise DataError(f"{archive} must hold {name}.gz, and does not; hint: it must be {EMNIST.url}")
    # The member keeps the archive's file open for as long as it is open itself.
    return (lambda: zipfile.ZipFile(archive).open(member)), f"{archive}/{member}"
