"""Where fedmoe keeps files, and how it writes them: beside their place first, then moved in whole."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmoe.errors import DataError

__all__ = ["data_folder", "existing_root", "home", "mapped", "new_file", "new_folder"]


def home() -> Path:
    """Returns fedmoe's own folder: `$FEDMOE_HOME` where that is set, else `~/.cache/fedmoe`; it need not exist yet."""
    named = os.environ.get("FEDMOE_HOME", "")
    return Path(named).expanduser().absolute() if named else Path.home() / ".cache" / "fedmoe"


def data_folder(root: str | None) -> Path:
    """Returns the absolute path where data files are looked for; an empty `root` is fedmoe's own data folder."""
    return Path(root).expanduser().absolute() if root else home() / "data"


def existing_root(root: str | None) -> Path:
    """Returns `data_folder(root)`; a root that was asked for must exist: a slip of the pen is not missing data.

    Raises:
        DataError: `root` is given and leads nowhere.
    """
    folder = data_folder(root)
    if root and not folder.exists():
        raise DataError(
            f"data.root must be a folder or an archive that exists; got {folder}; "
            "hint: make the folder, or leave data.root empty for fedmoe's own"
        )
    return folder


def mapped(file: Path) -> NDArray[Any]:
    """Returns the array in an `.npy` file, memory-mapped and read-only.

    Raises:
        OSError: there is no such file.
        ValueError: it holds no array, or is cut short.
    """
    # As a plain array: what is taken out of an `np.memmap` is one too, and takes five times as long to make.
    return np.asarray(np.load(file, mmap_mode="r", allow_pickle=False))


@contextmanager
def new_file(target: Path) -> Iterator[Path]:
    """Yields the path of an empty file that takes `target`'s place when the block ends well, and vanishes when not.

    Nobody ever sees half a file: the new one stands in the same folder, and the move is one step of the file system.

    Raises:
        DataError: the disk is full, or the folder cannot be written.
    """
    with _told(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{target.name}-", dir=target.parent)
        os.close(handle)
    draft = Path(name)
    try:
        with _told(target):
            yield draft
            # `mkstemp` hides the file from everyone else; a cache may be shared by several users' processes.
            draft.chmod(0o644)
            draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Yields an empty folder that becomes `target` when the block ends well, and vanishes when not.

    When another process has put a folder there in the meantime, that one stays: use it for what is named by its
    content alone.

    Raises:
        DataError: the disk is full, or the folder cannot be written.
    """
    with _told(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{target.name[:16]}-", dir=target.parent))
    try:
        with _told(target):
            yield draft
            draft.chmod(0o755)
            try:
                draft.rename(target)
            except OSError:
                if not target.is_dir():
                    raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


@contextmanager
def _told(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise DataError(
            f"{target} could not be written: {reason}; hint: free some space or mend its rights, "
            "or let FEDMOE_HOME name another folder"
        ) from error
