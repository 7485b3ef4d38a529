"""Files that are either whole or not there, and what goes wrong on a disk said in words."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from fedmoe.errors import RunFolderError

__all__ = ["atomic_file", "explain_disk", "write_atomic"]

HINTS = {
    errno.ENOSPC: "the disk is full; hint: free some space, then go on with --resume",
    errno.EDQUOT: "the disk quota is used up; hint: free some space, then go on with --resume",
    errno.EACCES: "permission denied; hint: choose another output-dir or change the folder's owner",
    errno.EPERM: "permission denied; hint: choose another output-dir or change the folder's owner",
    errno.EROFS: "the file system is read-only; hint: choose another output-dir",
    errno.ENOENT: "no such file or folder; hint: was the run folder moved or removed?",
}


def explain_disk(error: OSError, path: Path) -> RunFolderError:
    """Returns the error to raise in place of `error`: the rule, the path, and what a person can do about it."""
    gone = errno.ENOENT if isinstance(error, FileNotFoundError) else 0  # safetensors raises it without a number
    reason = HINTS.get(error.errno or gone, error.strerror or str(error))
    return RunFolderError(f"a run folder must be readable and writable, got '{path}': {reason}")


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Yields a file to write what `path` shall hold; a kill at any moment leaves the old file or the new one whole.

    The new bytes go into a neighbour on the same file system, reach the disk, and then take the old file's name.

    Raises:
        RunFolderError: the disk is full, read-only or forbidden; the old file, if any, is untouched.
    """
    neighbour = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with neighbour.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(neighbour, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise explain_disk(error, path) from error
    finally:
        with contextlib.suppress(OSError):
            neighbour.unlink(missing_ok=True)


def write_atomic(path: Path, content: bytes) -> None:
    """Writes `content` to `path`, as `atomic_file` does.

    Raises:
        RunFolderError: the disk is full, read-only or forbidden; the old file, if any, is untouched.
    """
    with atomic_file(path) as file:
        file.write(content)


def _sync_folder(folder: Path) -> None:
    # The rename itself is an entry of the folder: without this a power cut can bring the old name back. Some
    # network file systems refuse to sync a folder; the file is whole either way, so that is no reason to stop.
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
