"""A worker: a process with a copy of a node, that takes orders through a pipe until its node is gone."""

import bdb
import multiprocessing
import os
import pickle
import signal
import sys
import weakref
from collections.abc import Mapping
from multiprocessing.connection import Connection
from typing import Any, NoReturn

import torch
from numpy.typing import NDArray

from fedmoe.errors import WorkerError
from fedmoe.flower.node import Node

__all__ = ["Worker"]

LOOK_UP = 5.0  # seconds after which an idle worker looks whether its node still lives
PATIENCE = 5.0  # seconds that a worker has to end by itself

Arrays = Mapping[str, NDArray[Any]]


class Worker:
    """A copy of a node in a process of its own.

    On Linux it is forked: it has all that the node has loaded at once, and shares its memory until either writes to it.
    Elsewhere, and where torch shall have several threads in it (OpenMP's do not survive a fork), it starts afresh.

    Args:
        node: what it is a copy of.
        threads: torch threads.
    """

    def __init__(self, node: Node, threads: int) -> None:
        forks = sys.platform == "linux" and threads == 1
        context: Any = multiprocessing.get_context("fork" if forks else "spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, node, threads, os.getpid()), daemon=True)
        self.process.start()
        theirs.close()  # so that the pipe breaks when the worker dies
        self._finalizer = weakref.finalize(self, end, self.process, self.pipe)

    def give(self, work: str, order: Mapping[str, Any], arrays: Arrays) -> None:
        """Gives it an order: what `Node`'s method of this name takes."""
        try:
            self.pipe.send((work, order, arrays))
        except OSError:
            self._died()

    def answer(self) -> tuple[Any, Exception | None]:
        """Returns the answer to the order that was given, or what the node raised.

        Raises:
            WorkerError: the process has died.
        """
        try:
            answer, error = self.pipe.recv()
        except (EOFError, OSError):
            self._died()
        return answer, error

    def close(self) -> None:
        """Ends the process."""
        self._finalizer()

    def _died(self) -> NoReturn:
        self.process.join(PATIENCE)
        raise WorkerError(
            f"a worker process of the node must live as long as the run, got exit code {self.process.exitcode}; hint: "
            "-9 is what the system does where memory runs out: fewer at a time (train.workers), or train.workers=1"
        ) from None


def serve(pipe: Connection, node: Node, threads: int, parent: int) -> None:
    """Answers orders until the pipe closes or the node's process is gone; runs in the worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the node's process hears of Ctrl-C and ends its workers
    sys.breakpointhook = no_terminal
    torch.set_num_threads(threads)
    while True:
        while not pipe.poll(LOOK_UP):
            if os.getppid() != parent:  # the pipe may stay open: workers forked later hold it too
                return
        try:
            work, order, arrays = pipe.recv()
            answer, error = None, None
            try:
                answer = getattr(node, work)(order, arrays)
            except Exception as raised:  # it is raised again where the answer is read
                error = portable(raised)
            pipe.send((answer, error))
        except (EOFError, OSError):
            return  # the node has gone


def portable(error: Exception) -> Exception:
    """Returns the error, or one that says the same where it cannot go through a pipe."""
    if isinstance(error, bdb.BdbQuit):
        return WorkerError("a debugger was called in a worker process, which has no terminal; hint: train.workers=1")
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    except Exception:
        return WorkerError(f"{type(error).__name__}: {error}")
    return error


def no_terminal(*_: Any, **__: Any) -> None:
    """Refuses `breakpoint()`."""
    raise bdb.BdbQuit


def end(process: Any, pipe: Connection) -> None:
    """Ends a worker's process, which may be at work."""
    pipe.close()
    process.terminate()
    process.join(PATIENCE)
    if process.is_alive():
        process.kill()
        process.join()
    process.close()
