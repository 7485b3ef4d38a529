"""Work for many clients at once in which one may fail: it is named and left out, and the others' work is done."""

import bdb
import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from fedmoe.federation.job import ClientFailure

__all__ = ["attempt"]

_log = logging.getLogger(__name__)
Result = TypeVar("Result")


def attempt(
    stage: str,
    round_num: int,
    chunks: Iterable[Sequence[int]],
    work: Callable[[Sequence[int]], Sequence[Result]],
) -> tuple[dict[int, Result], list[ClientFailure]]:
    """Returns each client's result, and a failure for each whose work raised.

    Clients whose work raises together are tried again in halves, down to the one that raises alone. So what a client
    gets must not depend on who is served with it.

    Args:
        stage: `"rank"` or `"evaluate"`, for the failures.
        round_num: 1-based, likewise.
        chunks: clients that are worked for together.
        work: gives the results of some of the clients, in order.
    """
    done: dict[int, Result] = {}
    failures = []
    waiting = deque(chunks)
    while waiting:
        some = waiting.popleft()
        try:
            done |= zip(some, work(some), strict=True)
        except bdb.BdbQuit:  # a person at the debugger has had enough
            raise
        except Exception as error:  # named, counted and recorded by the server; the others go on
            if len(some) > 1:
                waiting.extendleft((some[len(some) // 2 :], some[: len(some) // 2]))
                continue
            _log.exception("client %d failed in round %d (%s)", some[0], round_num, stage)
            text = f"{type(error).__name__}: {error}"
            failures.append(ClientFailure(stage=stage, client_id=some[0], round_num=round_num, error=text))
    return done, failures
