"""What jobs must have in common to be stacked, and what is found out about each kind of job before it is."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fedmoe.federation.job import ClientJob
from fedmoe.federation.state import ServerState
from fedmoe.training.memory import is_out_of_memory
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
    parts = f"gate: {job.gate}, head: {job.head >= 0}, given: {given}, shrink: {job.shrink}, {job.shrink_gate}"
    shape = f"{len(job.experts)} experts, {parts}"
    kept += f", instead: {sorted(job.instead.items())}" if job.instead else ""
    return f"{job.objective!r}, turns: {job.turns!r}, trains: {job.trains}, {shape}, {kept}"


def examine(place: Workplace, job: ClientJob, state: ServerState) -> JobKind:
    """Returns what a stack of this client alone shows of its kind: two losses on a few of its samples are enough.

    Raises:
        Exception: whatever the client's job raises, or memory ran out.
    """
    buffers = Buffers(place)
    samples = load_stack(place, [job], len(state.experts), 1, 1)
    rows = torch.arange(PROBE, device=place.device) % samples.counts[0]
    inputs = samples.samples.inputs(rows)
    own = (samples.samples.y, samples.samples.gate_input, samples.samples.common, samples.samples.lots)
    y, gate, common, lots = (part[rows][None] for part in own)
    x = inputs[None]
    stack = RunningStack(place, buffers, [job], state, 1)
    exact = StepBatch(x, y, gate, common, lots, None)
    # Rows that differ from all samples, so that they show even where a client has one sample alone.
    counted = (torch.arange(2 * PROBE, device=place.device) < PROBE).float()[None]
    x, gate, common = (torch.cat([part, -part], 1) for part in (x, gate, common))
    filled = StepBatch(x, torch.cat([y, y], 1), gate, common, torch.cat([lots, lots], 1), counted)
    one, kept = memory_of(lambda: gradient(stack, filled))
    copies = 4 * 6 * sum(t.numel() for room in buffers.stacks.values() for t in room.tensors.values())
    passes = kept * place.settings.batch_size // (2 * PROBE)
    kept_there = (samples.samples.images, *own, samples.rows_NSB)
    needed = copies + 2 * passes + sum(part.numel() * part.element_size() for part in kept_there)
    stack = RunningStack(place, buffers, [job], state, 1)  # anew: a pass may have changed BatchNorm's statistics
    try:
        other = gradient(stack, exact)
    except (ValueError, RuntimeError) as error:
        if is_out_of_memory(error):  # it says nothing of the kind
            raise
        # a batch that small cannot be computed (BatchNorm): then none is filled either
        return JobKind(can_fill=False, client_bytes=needed)
    same = bool((one - other).norm() <= TOLERANCE * other.norm())
    router = stack.program.gate  # a few rows may be chosen alike by luck: a gate that looks at the batch says so itself
    same &= router is None or not router.looks_at_batch
    return JobKind(can_fill=same or place.settings.batch_size == 1, client_bytes=needed)


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Shows every tensor that comes out of an operation to somebody."""

    def __init__(self, look: Callable[[Tensor], object]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.look = look

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Does what is to be done, and shows what comes out."""
        out = function(*args, **(kwargs or {}))
        for part in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(part, Tensor):
                self.look(part)
        return out


def memory_of(work: Callable[[], Tensor]) -> tuple[Tensor, int]:
    """Returns what the work gives, and the bytes that its passes forward keep for those back.

    An objective that takes gradients itself cannot be watched so: then it is the bytes of all places that it has
    written to, which is more.
    """
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    try:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            return work(), sum(kept.values())
    except RuntimeError:
        kept.clear()
        with Watch(keep):
            return work(), sum(kept.values())


def gradient(stack: RunningStack, batch: StepBatch) -> Tensor:
    """Returns the gradients of the stack's losses, turn after turn, as one vector."""
    turns = range(len(stack.turns))
    grads = [own for turn in turns for own in stack.gradients(stack.losses(batch, "fp32", turn), turn)]
    return torch.cat([grad.reshape(-1) for grad in grads])
