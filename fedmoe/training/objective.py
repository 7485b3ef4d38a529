"""What an objective sees: a batch and the client's copies of gate and experts.

An objective is written for one client and one batch, in plain torch. The stacked trainer runs the same lines for many
clients at once (`torch.func.vmap`), so an objective is pure: all that differs between clients comes in as tensors, and
nothing of it is read back into Python (no `if loss > 1`, no `.item()`, no `int(tensor)`).

Shapes: B samples, K held experts, M experts in the pool, C classes, D width of the gate's input.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, cast

import torch
from torch import Tensor

from fedmoe.federation.job import Term
from fedmoe.references import load_plugin
from fedmoe.training.attack import Span

__all__ = ["Batch", "GateCopy", "LocalModel", "Objective", "load_objective", "load_terms"]


@dataclass(frozen=True)
class Batch:
    """A batch of one client.

    Attributes:
        x_BCHW: normalised inputs.
        y_B: int64 labels.
        gate_BD: what the gate reads; an empty tensor where the job has no gate.
        weight_B: 1 for a sample, 0 for a row that only fills the batch up, or that does not count in this turn; `None`:
            all are samples.
        common_BC: the common expert's class logits, where the gate falls back; else an empty tensor.
        lots_BL: numbers drawn for each sample, where the experts take any (`Expert.draws`); else of width 0.
    """

    x_BCHW: Tensor
    y_B: Tensor
    gate_BD: Tensor
    weight_B: Tensor | None = None
    common_BC: Tensor = field(default_factory=lambda: torch.empty(0))
    lots_BL: Tensor = field(default_factory=lambda: torch.empty(0))

    def gate_input(self, x_BCHW: Tensor, reads: str) -> Tensor:
        """Returns what the gate reads where the inputs are these: an image it sees, of others it has its own.

        Args:
            x_BCHW: as the batch's, but for what was done to them.
            reads: `Gate.reads`.
        """
        if reads != "image":
            return self.gate_BD
        flat_BD = x_BCHW.flatten(1)
        return torch.cat([flat_BD, self.gate_BD[:, flat_BD.shape[1] :]], dim=1)  # lots stand behind it

    def mean(self, loss_B: Tensor) -> Tensor:
        """Returns the mean of a figure a sample, rows that only fill the batch up left out.

        Every objective ends in it. One that averages in its own way is noticed: the stacked trainer then stacks only
        clients of equal size, whose batches need no filling.
        """
        if self.weight_B is None:
            return loss_B.mean()
        return (loss_B * self.weight_B).sum() / self.weight_B.sum().clamp(min=1)


class GateCopy(Protocol):
    """A client's gate: the module itself, or its stacked copies."""

    @property
    def reads(self) -> str:
        """Returns `Gate.reads`."""
        ...

    @property
    def falls_back(self) -> bool:
        """Returns `Gate.falls_back`."""
        ...

    def scores(self, input_BD: Tensor) -> Tensor:
        """Returns logits_BM."""
        ...

    def weigh(self, logits_BM: Tensor, expert_ids_K: Tensor) -> Tensor:
        """Returns weights_BK of the held experts."""
        ...


@dataclass(frozen=True, kw_only=True)
class LocalModel:
    """One client's copies.

    Attributes:
        experts: x_BCHW -> logits_KBC of the held experts, in the order of `expert_ids_K`; given lots_BL as well, what
            they say by these numbers.
        gate: `None` when the job has no gate.
        expert_ids_K: int64, their ids in the pool.
        num_experts: M.
        trained: the trainable parameters: the experts', then the gate's.
        start: gives the same parameters as received; made only when asked for.
        log_prior_C: log of the client's label prior, or `None` without logit adjustment.
        memory: name -> what the client has kept for its objective (`ClientJob.memory`), shaped like `trained`.
        shared: name -> the server's vectors for it (`ClientJob.shared`), likewise.
        given: name -> the client's own numbers (`ClientJob.given`), one axis.
        span: what the inputs' pixels may be, for attacks; `None`: they are no images.
    """

    experts: Callable[..., Tensor]
    gate: GateCopy | None
    expert_ids_K: Tensor
    num_experts: int
    trained: Sequence[Tensor]
    start: Callable[[], Sequence[Tensor]]
    log_prior_C: Tensor | None
    memory: Mapping[str, Sequence[Tensor]] = field(default_factory=dict)
    shared: Mapping[str, Sequence[Tensor]] = field(default_factory=dict)
    given: Mapping[str, Tensor] = field(default_factory=dict)
    span: Span | None = None

    def logits_KBC(self, x_BCHW: Tensor, lots_BL: Tensor | None = None) -> Tensor:
        """Returns the class logits of the held experts, adjusted by the client's label prior where that is on.

        Logit adjustment (Menon et al., arXiv 2007.07314, equation 10): the local loss sees `logits + log prior`, so
        that the expert itself need not learn which labels this client happens to hold.

        Args:
            x_BCHW: inputs.
            lots_BL: `Batch.lots_BL`, for experts that take numbers by lot; `None`: they do without, as in serving.
        """
        given = (x_BCHW,) if lots_BL is None else (x_BCHW, lots_BL)
        return self.adjusted(self.experts(*given).float())  # losses are taken in float32, whatever was computed in

    def adjusted(self, logits: Tensor) -> Tensor:
        """Returns class logits with the log of the client's label prior added, where that is on."""
        return logits if self.log_prior_C is None else logits + self.log_prior_C

    @property
    def falls_back(self) -> bool:
        """Returns whether what the gate leaves of its weights is the common expert's (`Gate.falls_back`)."""
        return self.gate is not None and self.gate.falls_back

    def scores(self, gate_BD: Tensor) -> Tensor:
        """Returns the gate's logits_BM over the whole pool.

        Raises:
            ValueError: the job has no gate.
        """
        return self._present_gate().scores(gate_BD).float()

    def weights(self, gate_BD: Tensor, expert_ids: Tensor | None = None) -> Tensor:
        """Returns weights_BK as the gate's rule has them: of the held experts, in the order of `expert_ids_K`.

        Args:
            gate_BD: what the gate reads.
            expert_ids: other experts that share the weight, int64 pool ids; `None`: the held ones.

        Raises:
            ValueError: the job has no gate.
        """
        ids = self.expert_ids_K if expert_ids is None else expert_ids
        return self._present_gate().weigh(self.scores(gate_BD), ids)

    def _present_gate(self) -> GateCopy:
        if self.gate is None:
            raise ValueError("this job has no gate; hint: an objective that routes needs ClientJob(gate=True)")
        return self.gate


class Objective(Protocol):
    """A term of a client's loss: one file in `fedmoe/training/objectives/`, a callable without state."""

    def __call__(self, model: LocalModel, batch: Batch) -> Tensor:
        """Returns the batch's loss, a scalar: a mean over samples by `batch.mean`, or a term without samples."""
        ...


def load_terms(terms: Sequence[Term]) -> list[Objective]:
    """Returns the terms of an objective.

    Raises:
        ReferenceError_: a term's name leads nowhere.
    """
    return [
        cast(Objective, load_plugin("objective", "fedmoe.training.objectives", term.name)(**term.arguments))
        for term in terms
    ]


def load_objective(terms: Sequence[Term]) -> Objective:
    """Returns the sum of the terms as one objective.

    Raises:
        ReferenceError_: a term's name leads nowhere.
    """
    parts = load_terms(terms)

    def total(model: LocalModel, batch: Batch) -> Tensor:
        return torch.stack([part(model, batch) for part in parts]).sum()

    return parts[0] if len(parts) == 1 else total
