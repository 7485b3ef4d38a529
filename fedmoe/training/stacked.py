"""The stacked trainer: many clients trained as one program, their copies stacked over (client, expert).

No published simulator does this in PyTorch; the loop trainer does the same work client after client, and gives the same
updates but for the last bits (law 2). Clients of one kind of job (objective, number of experts, gate) are sorted,
longest first, and cut into stacks. In a step only those still at work take part: they are the first rows. A batch that
is not full is filled up, and the rows that fill do not count (`Batch.mean`). A kind of job that cannot be stacked is
found out by its first client that fails alone: where there is a loop trainer to turn to, that one trains it.
"""

import bdb
import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence

from fedmoe.federation.job import ClientFailure, ClientJob, ClientUpdate
from fedmoe.federation.merging import diverged
from fedmoe.federation.state import ServerState
from fedmoe.training.job_kind import JobKind, examine, kind_of
from fedmoe.training.memory import free_bytes, is_out_of_memory
from fedmoe.training.running_stack import Buffers
from fedmoe.training.schedule import filled_size, num_steps
from fedmoe.training.stack_run import train_stack
from fedmoe.training.trainer import LocalTrainer, Workplace

__all__ = ["StackedTrainer"]

_log = logging.getLogger(__name__)

SHARE = 0.5  # of the free memory that the stacks of all who share it may take
TRIES = 3  # clients that a kind of job is tried on
UNKNOWN = 8  # clients of a stack whose size in memory could not be found out


class StackedTrainer:
    """Trains clients together, up to `width` at once.

    Args:
        place: what it works with.
        width: clients of a stack at the most; 0: as many as memory allows. Where memory runs out all the same, it is
            halved for good, and the stack is begun again.
        compiled: whether steps are compiled by torch.
        max_steps: steps after which a client stops, where only the speed is measured; `None`: all.
        loop: who trains the kinds of jobs that cannot be stacked; `None`: their clients fail.
        looped: kind (`kind_of`) -> why it cannot be stacked, as far as that is known already. More are added as they
            show, and told once in the log.
    """

    def __init__(
        self,
        place: Workplace,
        *,
        width: int = 0,
        compiled: bool = False,
        max_steps: int | None = None,
        loop: LocalTrainer | None = None,
        looped: Mapping[str, str] | None = None,
    ) -> None:
        self.place = place
        self.compiled = compiled
        self.width = width
        self.max_steps = max_steps
        self.loop = loop
        self.looped = dict(looped or {})
        self.buffers = Buffers(place)
        self.kinds: dict[str, JobKind] = {}
        self.widths: dict[str, int] = {}  # by kind: what memory has turned out to hold

    def train(self, jobs: Iterable[ClientJob], state: ServerState) -> Iterator[ClientUpdate | ClientFailure]:
        """Yields the update of each job, stack after stack, or its failure where it raised or its weights diverged."""
        for fill, waiting in self._groups(jobs, state):
            while waiting:
                limit = self._limit(waiting[0])
                stacks = -(-len(waiting) // limit)
                count = -(-len(waiting) // stacks)  # equal stacks rather than a small one at the end
                yield from self._together(waiting[:count], state, fill)
                waiting = waiting[count:]

    def _groups(self, jobs: Iterable[ClientJob], state: ServerState) -> Iterator[tuple[int, list[ClientJob]]]:
        """Yields jobs that can be stacked with each other, longest first, and what their batches are filled up to."""
        by_kind: dict[str, list[ClientJob]] = {}
        for job in jobs:
            by_kind.setdefault(kind_of(job), []).append(job)
        for key, alike in by_kind.items():
            if key not in self.kinds.keys() | self.looped.keys() and (found := self._examine(alike, state)) is not None:
                self.kinds[key] = found
            can_fill = key in self.kinds and self.kinds[key].can_fill
            groups: dict[tuple[int, int], list[ClientJob]] = {}
            for job in alike:
                count = self._samples(job)
                filled = (filled_size(count, self.place.settings.batch_size), 0)
                groups.setdefault(filled if can_fill else (0, count), []).append(job)
            for (fill, _), group in groups.items():
                yield fill, sorted(group, key=lambda job: (-self._steps(job), job.client_id))

    def _examine(self, jobs: Sequence[ClientJob], state: ServerState) -> JobKind | None:
        """Returns what is found out of jobs of one kind, from the first client that can be trained; `None`: nothing."""
        for job in jobs[:TRIES]:
            try:
                return examine(self.place, job, state)
            except bdb.BdbQuit:
                raise
            except Exception:  # whatever it is, it comes again, and is named, when this client is trained
                _log.debug("a stack of client %d alone could not be examined", job.client_id, exc_info=True)
        return None

    def _limit(self, job: ClientJob) -> int:
        """Returns how many clients a stack of this kind may hold now."""
        kind = self.kinds.get(kind_of(job))
        own = int(SHARE * free_bytes(self.place.device)) // self.place.sharers
        room = own // kind.client_bytes if kind else UNKNOWN
        limits = [room, self.width, self.widths.get(kind_of(job), 0)]
        return max(1, min(limit for limit in limits if limit))

    def _together(
        self, jobs: Sequence[ClientJob], state: ServerState, fill: int
    ) -> Iterator[ClientUpdate | ClientFailure]:
        """Yields the outcomes of a stack; one that raises is begun again in two halves, down to the client at fault."""
        if self.loop is not None and kind_of(jobs[0]) in self.looped:
            yield from self.loop.train(jobs, state)
            return
        problem, started = None, time.perf_counter()
        updates: list[ClientUpdate] = []
        try:
            updates = train_stack(self.place, self.buffers, jobs, state, fill, self.compiled, self.max_steps)
        except bdb.BdbQuit:  # a person at the debugger has had enough
            raise
        except Exception as error:  # a client's failure must not end the round: it is named, counted, recorded
            problem = f"{type(error).__name__}: {error}"
            if self.compiled and self.max_steps is None and is_compilers(error):
                _log.warning("jobs such as client %d's cannot be compiled: none are from now on", jobs[0].client_id)
                self.compiled = False
                yield from self._together(jobs, state, fill)
                return
            if is_out_of_memory(error) and len(jobs) > 1:
                self.widths[kind_of(jobs[0])] = len(jobs) // 2
                _log.warning("a stack of %d clients does not fit the memory: %d from now on", len(jobs), len(jobs) // 2)
            elif len(jobs) == 1 and self.loop is not None and not is_out_of_memory(error):
                yield from self._looped(jobs[0], state, problem)
                return
            elif len(jobs) == 1:
                _log.exception("client %d failed in round %d (train)", jobs[0].client_id, jobs[0].round_num)
        if problem is None:
            seconds = (time.perf_counter() - started) / len(jobs)
            yield from (checked(update, seconds, jobs[0].round_num) for update in updates)
        elif len(jobs) == 1:
            forced = self.place.settings.trainer == "stacked"
            hint = "; hint: train.trainer='auto' trains in the loop what cannot be stacked" if forced else ""
            yield failure(jobs[0].client_id, jobs[0].round_num, problem + hint)
        else:
            self.buffers.free()
            half = len(jobs) // 2
            yield from self._together(jobs[:half], state, fill)
            yield from self._together(jobs[half:], state, fill)

    def _looped(self, job: ClientJob, state: ServerState, problem: str) -> Iterator[ClientUpdate | ClientFailure]:
        """Yields the loop's outcome of a client that failed alone; if it succeeds there, stacking was at fault."""
        for outcome in self.loop.train([job], state) if self.loop is not None else ():
            if isinstance(outcome, ClientUpdate):
                self.looped[kind_of(job)] = problem
                _log.warning(
                    "jobs such as client %d's cannot be trained as one program, but one after another: %s",
                    *(job.client_id, problem),
                )
            yield outcome

    def _samples(self, job: ClientJob) -> int:
        return len(self.place.samples_of(job))

    def _steps(self, job: ClientJob) -> int:
        return num_steps(self._samples(job), self.place.epochs(job), self.place.settings.batch_size)


def is_compilers(error: Exception) -> bool:
    """Returns whether torch's compiler raised the error; by its name, for the compiler takes seconds to import."""
    return any(kind.__name__ == "TorchDynamoException" for kind in type(error).__mro__)


def checked(update: ClientUpdate, seconds: float, round_num: int) -> ClientUpdate | ClientFailure:
    """Returns the update with the seconds it took, or the client's failure where its weights diverged."""
    problem = diverged(update)
    if problem is not None:
        return failure(update.client_id, round_num, problem)
    metrics = {**update.metrics, "seconds": seconds}
    return ClientUpdate(**(vars(update) | {"metrics": metrics}))


def failure(client_id: int, round_num: int, problem: str) -> ClientFailure:
    """Returns the record of a client whose training failed."""
    return ClientFailure(stage="train", client_id=client_id, round_num=round_num, error=problem)
