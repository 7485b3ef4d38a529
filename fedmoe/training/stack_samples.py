"""The samples of a stack of clients, and which of them each client sees in each of its steps.

Shapes: N clients, S steps of the longest, B batch size.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedmoe.federation.job import ClientJob
from fedmoe.training.augmentation import augment
from fedmoe.training.samples import ClientSamples
from fedmoe.training.schedule import epochs_of, num_steps
from fedmoe.training.trainer import Workplace

__all__ = ["StackSamples", "StepBatch", "load_stack"]


@dataclass(frozen=True)
class StepBatch:
    """A batch of each of the first clients.

    Attributes:
        x: normalised inputs, clients x batch x channels x height x width.
        y: labels, clients x batch.
        gate: what the gate reads, clients x batch x width.
        common: the common expert's logits, clients x batch x classes; of width 0 where the gate does not fall back.
        weight: 1 for a sample and 0 for a row that fills up, clients x batch; `None`: all are samples.
        validates: whether a sample is of its client's validation split, clients x batch; `None`: no turn asks.
        lots: numbers drawn for the experts, clients x batch x L.
    """

    x: Tensor
    y: Tensor
    gate: Tensor
    common: Tensor
    lots: Tensor
    weight: Tensor | None
    validates: Tensor | None = None

    def counting(self, part: str) -> "StepBatch":
        """Returns the batch with a weight of 0 for samples that do not count in a turn of this part (`Turn.part`)."""
        if part == "all" or self.validates is None:
            return self
        counts = (self.validates if part == "validation" else ~self.validates).float()
        return replace(self, weight=counts if self.weight is None else counts * self.weight)


@dataclass(frozen=True)
class StackSamples:
    """All samples of N clients, one after another, and their order.

    Attributes:
        samples: on the device.
        rows_NSB: row in `samples` of each sample of each batch; what lies beyond a batch's size is row 0.
        sizes_NS: samples of each batch; the full batch where a client has no such step.
        lots_NSB3: what the augmentation drew, or `None`.
        counts: samples of each client.
        steps: steps of each client.
        validates: whether each sample is of its client's validation split; `None`: no turn asks.
    """

    samples: ClientSamples
    rows_NSB: Tensor
    sizes_NS: NDArray[np.int64]
    lots_NSB3: Tensor | None
    counts: tuple[int, ...]
    steps: tuple[int, ...]
    validates: Tensor | None = None

    def batch(self, step: int, active: int, rows: int, size: int = 0) -> StepBatch:
        """Returns a step's batches of the first `rows` clients.

        Args:
            step: 0-based.
            active: clients that have this step.
            rows: at least `active`; what the clients beyond see does not matter.
            size: rows that every batch is filled up to; 0: all batches of the step are of equal size.
        """
        size = size or int(self.sizes_NS[0, step])
        picked = self.rows_NSB[:rows, step, :size].reshape(-1)
        moves = None if self.lots_NSB3 is None else self.lots_NSB3[:rows, step, :size].reshape(-1, 3)
        x = augment(self.samples.inputs(picked), moves)
        own = (self.samples.y, self.samples.gate_input, self.samples.common, self.samples.lots)
        y, gate, common, lots = (part.index_select(0, picked) for part in own)
        weight = None
        if (self.sizes_NS[:active, step] != size).any():
            ends = torch.from_numpy(self.sizes_NS[:rows, step]).to(picked.device)
            weight = (torch.arange(size, device=picked.device) < ends[:, None]).float()
        x, y, gate, common, lots = (part.reshape(rows, size, *part.shape[1:]) for part in (x, y, gate, common, lots))
        validates = None if self.validates is None else self.validates[picked].reshape(rows, size)
        return StepBatch(x, y, gate, common, lots, weight, validates)


def load_stack(
    place: Workplace, jobs: Sequence[ClientJob], num_experts: int, width: int, max_steps: int | None
) -> StackSamples:
    """Returns the samples of the jobs' clients and the order in which each sees its own.

    Args:
        place: where the samples are.
        jobs: the stack's, longest first.
        num_experts: M.
        width: rows of the stack, at least one a job.
        max_steps: steps after which a client stops; `None`: all.
    """
    ids = [place.samples_of(job) for job in jobs]
    counts = tuple(len(own) for own in ids)
    if 0 in counts:
        raise ValueError("a client must have a sample at least")
    gate = place.gate_for(num_experts) if jobs[0].gate else None
    by_lot = gate is not None and (gate.reads == "lot" or gate.draws > 0)
    reads = None if gate is None or by_lot else gate.reads
    samples = place.store.load(np.concatenate(ids), reads, common=gate is not None and gate.falls_back)
    if gate is not None and by_lot:
        inputs = [
            place.store.gate_input(own, gate.reads, place.lots(job, num_experts))
            for own, job in zip(ids, jobs, strict=True)
        ]
        samples = replace(samples, gate_input=torch.cat(inputs))
    samples = replace(samples, lots=torch.cat([place.expert_lots(job) for job in jobs]))
    batch_size, augmentation = place.settings.batch_size, place.settings.augmentation
    steps = [num_steps(count, place.epochs(job), batch_size) for count, job in zip(counts, jobs, strict=True)]
    longest = max(steps)
    rows_NSB = torch.zeros((width, longest, batch_size), dtype=torch.int64)
    sizes_NS = np.full((width, longest), batch_size)
    lots_NSB3 = None if augmentation == "none" else torch.zeros((width, longest, batch_size, 3), dtype=torch.int64)
    first = 0
    for row, (job, count) in enumerate(zip(jobs, counts, strict=True)):
        in_epoch = -(-count // batch_size)
        for index, epoch in enumerate(epochs_of(count, place.epochs(job), augmentation, place.stream(job))):
            own = slice(index * in_epoch, (index + 1) * in_epoch)
            rows_NSB[row, own].view(-1)[:count] = epoch.order_N + first
            sizes_NS[row, own.stop - 1] = count - (in_epoch - 1) * batch_size
            if lots_NSB3 is not None and epoch.lots_N3 is not None:
                lots_NSB3[row, own].view(-1, 3)[:count] = epoch.lots_N3
        first += count
    limit = longest if max_steps is None else min(longest, max_steps)
    return StackSamples(
        samples=samples,
        rows_NSB=rows_NSB[:, :limit].to(place.device),
        sizes_NS=sizes_NS[:, :limit],
        lots_NSB3=None if lots_NSB3 is None else lots_NSB3[:, :limit].to(place.device),
        counts=counts,
        steps=tuple(min(count, limit) for count in steps),
        validates=torch.cat([place.validation_of(job) for job in jobs]) if jobs[0].splits else None,
    )
