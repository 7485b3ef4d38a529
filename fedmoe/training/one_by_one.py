"""Clients' work one after another, where one that fails does not end the round: it is named, counted, recorded."""

import bdb
import logging
from collections.abc import Callable, Iterable, Iterator

from fedmoe.federation.job import ClientFailure, ClientJob, ClientUpdate
from fedmoe.federation.merging import diverged

__all__ = ["one_by_one"]

_log = logging.getLogger(__name__)


def one_by_one(
    jobs: Iterable[ClientJob], work: Callable[[ClientJob], ClientUpdate]
) -> Iterator[ClientUpdate | ClientFailure]:
    """Yields, for each job in turn, what `work` gives, or the client's failure: it raised, or its values diverged."""
    for job in jobs:
        try:
            update = work(job)
            problem = diverged(update)
        except bdb.BdbQuit:  # a person at the debugger has had enough
            raise
        except Exception as error:  # whatever a client's own loss or statistic raises
            problem = f"{type(error).__name__}: {error}"
            _log.exception("client %d failed in round %d (train)", job.client_id, job.round_num)
        if problem is None:
            yield update
        else:
            yield ClientFailure(stage="train", client_id=job.client_id, round_num=job.round_num, error=problem)
