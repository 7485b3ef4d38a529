"""One process at a time writes to a run folder."""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from fedmoe.errors import RunFolderError

__all__ = ["only_writer"]

NAME = "lock"


@contextlib.contextmanager
def only_writer(folder: Path) -> Iterator[list[str]]:
    """Holds the run folder as long as the context lasts; the process's end, whatever it is, lets it go.

    Without it a run that has lost its parent and the same run resumed would both add rounds, and neither be of use.
    The lock (POSIX, on the file `lock`) is the process's own: children that it forks do not hold it.

    Yields:
        What the reader of the run must know of it: nothing, or that this file system has no locks.

    Raises:
        RunFolderError: another process holds it.
    """
    with (folder / NAME).open("a") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            raise RunFolderError(
                f"one process at a time may write to a run folder, but another one is writing to '{folder}'; hint: "
                "wait for its end, or end it, then give the same command again"
            ) from error
        except OSError as error:
            yield [f"no lock keeps a second process from this folder ({error.strerror}): let one run write to it"]
        else:
            yield []
