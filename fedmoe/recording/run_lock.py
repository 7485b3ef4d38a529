"""One process at a time writes to a run folder."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from fedmoe.errors import RunFolderError

__all__ = ["only_writer"]


@contextlib.contextmanager
def only_writer(folder: Path) -> Iterator[list[str]]:
    """Holds the run folder as long as the context lasts; the process's end, whatever it is, lets it go.

    Without it a run that has lost its parent and the same run resumed would both add rounds, and neither be of use.

    Yields:
        What the reader of the run must know of it: nothing, or that this file system has no locks.

    Raises:
        RunFolderError: another process holds it.
    """
    held = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunFolderError(
                f"one process at a time may write to a run folder, but another one is writing to '{folder}'; hint: "
                "wait for its end, or end it, then give the same command again"
            ) from error
        except OSError as error:
            yield [f"no lock keeps a second process from this folder ({error.strerror}): let one run write to it"]
        else:
            yield []
    finally:
        os.close(held)
