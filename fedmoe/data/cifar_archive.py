"""The format of CIFAR-10 and CIFAR-100 "for Python": pickled batches, read by torchvision after their hashes."""

import tarfile
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from torchvision.datasets import CIFAR10

from fedmoe.data.contracts import Dataset, LoadRequest
from fedmoe.data.downloads import download_or_explain, has_md5
from fedmoe.data.storage import existing_root
from fedmoe.errors import DataError

__all__ = ["load_cifar"]


def load_cifar(name: str, kind: type[CIFAR10], request: LoadRequest) -> Dataset:
    """Returns the data set that torchvision's class `kind` reads, 3x32x32.

    Looked for: its folder of batches in `<root>` (torchvision's place), then its archive in `<root>`, or as the root
    itself; then the archive is downloaded into `<root>`. An archive is unpacked to a folder that is thrown away, so
    nothing is written beside it.

    Raises:
        DataMissingError: neither is there.
        DataError: a file has another hash than the published one; unpickling runs code, so nothing is read before.
    """
    root = existing_root(request.root)
    if (root / kind.base_folder).is_dir():
        return _read(name, kind, root)
    archive = root if root.is_file() else root / kind.filename
    download_or_explain(name, {archive: (kind.url, kind.tgz_md5)}, timeout=request.download_timeout)
    if not has_md5(archive, kind.tgz_md5):
        raise DataError(
            f"{archive} must have the MD5 {kind.tgz_md5}, and has another; hint: it is broken, fetch {kind.url} again"
        )
    with tempfile.TemporaryDirectory(prefix="fedmoe-") as folder:
        try:
            with tarfile.open(archive, "r:gz") as opened:
                opened.extractall(folder, filter="data")
        except (OSError, tarfile.TarError) as error:
            raise DataError(f"{archive} could not be unpacked to {folder}: {error}; hint: is the disk full?") from error
        return _read(name, kind, Path(folder))


def _read(name: str, kind: type[CIFAR10], root: Path) -> Dataset:
    parts = [*kind.train_list, *kind.test_list, [kind.meta["filename"], kind.meta["md5"]]]
    for file, md5 in parts:
        path = root / kind.base_folder / file
        if not path.is_file() or not has_md5(path, md5):
            raise DataError(
                f"{path} must have the MD5 {md5}, and {'has another' if path.is_file() else 'is not there'}; hint: "
                f"delete {path.parent} and put {kind.filename} beside it, from {kind.url}"
            )
    with warnings.catch_warnings():
        # The published pickles are older than NumPy 2.4, which warns of how they spell a dtype.
        warnings.simplefilter("ignore", np.exceptions.VisibleDeprecationWarning)
        train, test = kind(root, train=True), kind(root, train=False)
    x_NHWC: Any = np.concatenate([train.data, test.data])
    return Dataset(
        name=name,
        real=True,
        x_NCHW=np.ascontiguousarray(x_NHWC.transpose(0, 3, 1, 2)),
        y_N=np.array([*train.targets, *test.targets], dtype=np.int64),
        num_train=len(train.targets),
        class_names=tuple(train.classes),
    )
