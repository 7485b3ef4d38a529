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
from fedmoe.flower.slab import Slab, Table

__all__ = ["Worker", "attempt", "can_fork"]

LOOK_UP = 5.0  # seconds after which an idle worker looks whether its node still lives
PATIENCE = 5.0  # seconds to wait for the exit code of a worker that has died

Arrays = Mapping[str, NDArray[Any]]


class Worker:
    """A copy of a node in a process of its own.

    Where it can be forked it has all that the node has loaded at once, and shares its memory until either writes to it;
    elsewhere it starts afresh.

    Args:
        node: what it is a copy of.
        threads: torch threads.
        given: where the arrays of orders lie, for a worker that is forked; `None`: they go through the pipe.

    Raises:
        OSError: the system has no room for another process.
    """

    def __init__(self, node: Node, threads: int, given: Slab | None) -> None:
        context: Any = multiprocessing.get_context("spawn" if given is None else "fork")
        self.given, self.made = given, None if given is None else Slab()
        self.pipe, theirs = context.Pipe()
        # a forked worker closes its copy of the node's end: else it could not see, in its answer, that the node is gone
        ends = (theirs, given, self.made, None if given is None else self.pipe)
        self.process = context.Process(target=serve, args=(ends, node, threads, os.getpid()), daemon=True)
        self.process.start()
        theirs.close()  # so that the pipe breaks when the worker dies
        self._finalizer = weakref.finalize(self, end, self.process, self.pipe, self.made)

    def give(self, work: str, order: Mapping[str, Any], arrays: "Arrays | Table") -> None:
        """Gives it an order.

        Args:
            work: the name of a method of `Node`.
            order: what it takes.
            arrays: what else it takes; the table of it in the slab where there is one.

        Raises:
            WorkerError: the process has died.
        """
        try:
            self.pipe.send((work, order, arrays))
        except OSError:
            self._died()

    def answer(self) -> tuple[Any, Arrays, Exception | None]:
        """Returns the answer to the order, its arrays (until the next order is given), or what the node raised.

        Raises:
            WorkerError: the process has died.
        """
        try:
            answer, arrays, error = self.pipe.recv()
        except (EOFError, OSError):
            self._died()
        return answer, arrays if self.made is None else self.made.read(arrays), error

    def close(self) -> None:
        """Ends the process."""
        self._finalizer()

    def _died(self) -> NoReturn:
        self.process.join(PATIENCE)
        raise WorkerError(
            f"a worker process of the node must live as long as the run, got exit code {self.process.exitcode}; hint: "
            "-9 is what the system does where memory runs out: fewer at a time (train.workers), or train.workers=1"
        ) from None


Ends = tuple[Connection, Slab | None, Slab | None, Connection | None]


def can_fork(threads: int) -> bool:
    """Returns whether a worker with so many torch threads can be forked.

    OpenMP's threads do not survive a fork, nor does CUDA; and where there is a GPU, nor do the threads that torch's
    autograd starts for it at the first backward pass, whatever device that is on.
    """
    return sys.platform == "linux" and threads == 1 and not torch.cuda.is_available()


def serve(ends: Ends, node: Node, threads: int, parent: int) -> None:
    """Answers orders until the pipe closes or the node's process is gone; runs in the worker."""
    pipe, given, made, nodes_end = ends
    if nodes_end is not None:
        nodes_end.close()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # Flower's own handlers end the run, and came along with a fork
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the node's process hears of Ctrl-C and ends its workers
    sys.breakpointhook = no_terminal
    torch.set_num_threads(threads)
    while True:
        try:
            while not pipe.poll(LOOK_UP):
                if os.getppid() != parent:  # the pipe may stay open: workers forked later hold it too
                    return
            work, order, received = pipe.recv()
        except (EOFError, OSError):
            return  # the node has gone
        answer = answer_to(node, work, order, received, given, made)
        try:
            pipe.send(answer)
        except OSError:
            return


def answer_to(
    node: Node, work: str, order: Mapping[str, Any], received: Any, given: Slab | None, made: Slab | None
) -> tuple[Any, "Arrays | Table", Exception | None]:
    """Returns what goes through the pipe: the answer, its arrays (or where they lie), the error."""
    try:
        arrays = received if given is None else given.read(received)
        answer, done, error = attempt(node, work, order, arrays)
        if error is None:
            return answer, done if made is None else made.write(done), None
    except OSError as raised:  # no memory to share
        error = raised
    return None, {} if made is None else [], portable(error)


def attempt(node: Node, work: str, order: Mapping[str, Any], arrays: Arrays) -> tuple[Any, Arrays, Exception | None]:
    """Returns the answer to an order and its arrays, or what was raised, which is raised again where it is read."""
    try:
        answer = getattr(node, work)(order, arrays)
    except Exception as error:
        return None, {}, error
    return (*answer, None) if isinstance(answer, tuple) else (answer, {}, None)


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


def end(process: Any, pipe: Connection, made: Slab | None) -> None:
    """Ends a worker's process, which may be at work."""
    pipe.close()
    if made is not None:
        made.close()
    process.kill()  # it has nothing to save
    process.join()
    process.close()
