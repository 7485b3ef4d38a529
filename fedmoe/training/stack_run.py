"""A stack of clients, trained from what they received to what they give back."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedmoe.federation.job import ClientJob, ClientUpdate
from fedmoe.federation.state import ServerState
from fedmoe.training.running_stack import Buffers, RunningStack
from fedmoe.training.stack_samples import load_stack
from fedmoe.training.trainer import Workplace

__all__ = ["train_stack"]

Vectors = tuple[Tensor, Tensor | None]


def train_stack(
    place: Workplace,
    buffers: Buffers,
    jobs: Sequence[ClientJob],
    state: ServerState,
    fill: int = 0,
    compiled: bool = False,
    max_steps: int | None = None,
) -> list[ClientUpdate]:
    """Returns the updates of jobs of one kind, which must be sorted longest first.

    The stack has an even number of rows: where it must, the last client is there twice, and one copy is dropped. A
    product of many matrices shares them out over torch's threads; of an odd number, two threads may share one matrix,
    and its last bits would depend on who else is in the stack.

    Args:
        place: what it works with.
        buffers: where the copies lie.
        jobs: the clients'.
        state: what the server sent.
        fill: rows that every batch is filled up to; 0: the clients are of equal size.
        compiled: whether steps are compiled by torch.
        max_steps: steps after which a client stops, where only the speed is measured; `None`: all.

    Raises:
        ValueError: the samples of a batch shall count in some turns only, and the objective does not look at weights.
    """
    if jobs[0].splits and not fill:
        raise ValueError(
            "a turn on a part of the samples needs an objective that ends in batch.mean, and an expert that does not "
            f"normalise over the batch, to be stacked; got {jobs[0].turns}; hint: train.trainer='loop'"
        )
    width = even(len(jobs))
    stack = RunningStack(place, buffers, jobs, state, width, compiled)
    samples = load_stack(place, jobs, len(state.experts), width, max_steps)
    losses_N = torch.zeros(width, device=place.device)
    finished: list[Vectors] = []
    active = len(jobs)
    for step in range(samples.steps[0] + 1):
        still = sum(1 for count in samples.steps if count > step)
        if still < active:  # read out before the rows of those who have finished are used as fillers
            finished.append(stack.vectors(still, active))
            active = still
        if active == 0:
            break
        if even(active) < stack.rows:
            stack.narrow(even(active))
        losses_N[:active] += stack.step(samples.batch(step, active, stack.rows, fill))[:active]
    experts, gates = joined(finished)
    losses = (losses_N[: len(jobs)].cpu() / torch.tensor(samples.steps)).tolist()
    modules = (buffers.expert, None if stack.gates is None else stack.program.gate)
    return [
        place.finished(
            job,
            stack.starts[i],
            [*experts[i], *([] if gates is None else [gates[i, 0]])],
            modules,
            {"loss": losses[i]},
        )
        for i, job in enumerate(jobs)
    ]


def even(count: int) -> int:
    """Returns the count, or one more, so that it is even."""
    return count + count % 2


def joined(finished: Sequence[Vectors]) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """Returns the vectors of experts and gates by row; the last rows finish first."""
    if len(finished) == 1:  # they are copies already
        experts, gate = finished[0]
        return experts.numpy(), None if gate is None else gate.numpy()
    gates = [part for _, part in reversed(finished) if part is not None]
    return torch.cat([part for part, _ in reversed(finished)]).numpy(), torch.cat(gates).numpy() if gates else None
