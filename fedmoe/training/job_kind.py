"""What jobs must have in common to be stacked, and what is found out about each kind of job before it is."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fedmoe.federation.job import ClientJob
from fedmoe.federation.state import ServerState
from fedmoe.training.running_stack import Buffers, RunningStack
from fedmoe.training.stack_samples import StepBatch, load_stack
from fedmoe.training.trainer import Workplace

__all__ = ["JobKind", "examine", "kind_of"]

TOLERANCE = 1e-3  # share of a gradient's norm that rows which only fill a batch up may change, for rounding
PROBE = 8  # samples that it is tried on


@dataclass(frozen=True)
class JobKind:
    """What is known of jobs of one kind.

    Attributes:
        can_fill: whether batches of unequal size can be filled up without a change of the result. Not so where an
            objective averages in its own way, or an expert normalises over the batch: then only clients of equal size
            are stacked.
        client_bytes: memory that one more client in a stack takes, about; 0: not known.
    """

    can_fill: bool
    client_bytes: int


def kind_of(job: ClientJob) -> str:
    """Returns the key of the job's kind: objective, number of experts, gate."""
    return f"{job.objective!r}, {len(job.experts)} experts, gate: {job.gate}"


def examine(place: Workplace, job: ClientJob, state: ServerState) -> JobKind:
    """Returns what a stack of this client alone shows of its kind: two losses on a few of its samples are enough."""
    buffers = Buffers(place)
    samples = load_stack(place, [job], len(state.experts), 1, 1)
    most = min(int(samples.sizes_NS[0, 0]), PROBE)
    few = max(1, most // 2)
    stack = RunningStack(place, buffers, [job], state, 1)
    whole = samples.batch(0, 1, 1)
    exact = StepBatch(whole.x[:, :few], whole.y[:, :few], whole.gate[:, :few], None)
    counted = (torch.arange(most, device=place.device) < few).float()[None]
    filled = StepBatch(whole.x[:, :most], whole.y[:, :most], whole.gate[:, :most], counted)
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        one = gradient(stack, filled)
    copies = 4 * 6 * sum(t.numel() for room in buffers.stacks.values() for t in room.tensors.values())
    passes = sum(kept.values()) * place.settings.batch_size // most
    stack = RunningStack(place, buffers, [job], state, 1)  # anew: a pass may have changed BatchNorm's statistics
    try:
        other = gradient(stack, exact)
    except (ValueError, RuntimeError):  # a batch that small cannot be computed (BatchNorm): then none is filled either
        return JobKind(can_fill=False, client_bytes=copies + 2 * passes)
    can_fill = most > few and bool((one - other).norm() <= TOLERANCE * other.norm())
    return JobKind(can_fill=can_fill, client_bytes=copies + 2 * passes)


def gradient(stack: RunningStack, batch: StepBatch) -> Tensor:
    """Returns the gradient of the stack's losses, as one vector."""
    leaves = [*stack.trained.values(), *stack.gate_trained.values()]
    with torch.autocast(stack.place.device.type, enabled=False):
        losses = stack.losses(batch)
    grads = torch.autograd.grad(losses.sum(), leaves, materialize_grads=True)
    return torch.cat([grad.reshape(-1) for grad in grads])
