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
PROBE = 4  # samples that it is tried on, and as many rows that fill up


@dataclass(frozen=True)
class JobKind:
    """What is known of jobs of one kind.

    Attributes:
        can_fill: whether batches of unequal size can be filled up without a change of the result. Not so where an
            objective averages in its own way, or an expert normalises over the batch: then only clients of equal size
            are stacked.
        client_bytes: memory that one more client in a stack takes, about.
    """

    can_fill: bool
    client_bytes: int


def kind_of(job: ClientJob) -> str:
    """Returns the key of the job's kind: objective, number of experts, gate, what is trained and kept."""
    kept = f"private: {job.private}, memory: {job.memory}, shared: {job.shared}"
    given = {name: len(values) for name, values in job.given.items()}
    shape = f"{len(job.experts)} experts, gate: {job.gate}, given: {given}"
    kept += f", instead: {sorted(job.instead.items())}" if job.instead else ""
    return f"{job.objective!r}, turns: {job.turns!r}, trains: {job.trains}, {shape}, {kept}"


def examine(place: Workplace, job: ClientJob, state: ServerState) -> JobKind:
    """Returns what a stack of this client alone shows of its kind: two losses on a few of its samples are enough."""
    buffers = Buffers(place)
    samples = load_stack(place, [job], len(state.experts), 1, 1)
    rows = torch.arange(PROBE, device=place.device) % samples.counts[0]
    inputs = samples.samples.inputs(rows)
    own = (samples.samples.y, samples.samples.gate_input, samples.samples.common)
    y, gate, common = (part[rows][None] for part in own)
    x = inputs[None]
    stack = RunningStack(place, buffers, [job], state, 1)
    exact = StepBatch(x, y, gate, common, None)
    # Rows that differ from all samples, so that they show even where a client has one sample alone.
    counted = (torch.arange(2 * PROBE, device=place.device) < PROBE).float()[None]
    x, gate, common = (torch.cat([part, -part], 1) for part in (x, gate, common))
    filled = StepBatch(x, torch.cat([y, y], 1), gate, common, counted)
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        one = gradient(stack, filled)
    copies = 4 * 6 * sum(t.numel() for room in buffers.stacks.values() for t in room.tensors.values())
    passes = sum(kept.values()) * place.settings.batch_size // (2 * PROBE)
    kept_there = (samples.samples.images, *own, samples.rows_NSB)
    needed = copies + 2 * passes + sum(part.numel() * part.element_size() for part in kept_there)
    stack = RunningStack(place, buffers, [job], state, 1)  # anew: a pass may have changed BatchNorm's statistics
    try:
        other = gradient(stack, exact)
    except (ValueError, RuntimeError):  # a batch that small cannot be computed (BatchNorm): then none is filled either
        return JobKind(can_fill=False, client_bytes=needed)
    same = bool((one - other).norm() <= TOLERANCE * other.norm())
    router = stack.program.gate  # a few rows may be chosen alike by luck: a gate that looks at the batch says so itself
    same &= router is None or not router.looks_at_batch
    return JobKind(can_fill=same or place.settings.batch_size == 1, client_bytes=needed)


def gradient(stack: RunningStack, batch: StepBatch) -> Tensor:
    """Returns the gradients of the stack's losses, turn after turn, as one vector."""
    turns = range(len(stack.turns))
    grads = [own for turn in turns for own in stack.gradients(stack.losses(batch, "fp32", turn), turn)]
    return torch.cat([grad.reshape(-1) for grad in grads])
