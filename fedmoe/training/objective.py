"""What an objective sees: a batch, the client's copies of gate and experts, and its job.

Shapes: B samples, K held experts, M experts in the pool, C classes, D width of the gate's input.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor

from fedmoe.federation.job import ClientJob, Term
from fedmoe.moe.expert import Expert
from fedmoe.moe.gate import Gate
from fedmoe.moe.routing import Routing
from fedmoe.references import load_plugin

__all__ = ["Batch", "LocalModel", "Objective", "load_objective"]


@dataclass(frozen=True)
class Batch:
    """A batch of one client.

    Attributes:
        x_BCHW: normalised inputs.
        y_B: int64 labels.
        gate_BD: what the gate reads.
    """

    x_BCHW: Tensor
    y_B: Tensor
    gate_BD: Tensor


@dataclass(frozen=True, kw_only=True)
class LocalModel:
    """One client's copies.

    Attributes:
        gate: `None` when the job has no gate.
        experts: held experts, in the order of `expert_ids`.
        expert_ids: their ids in the pool.
        num_experts: M.
        start: the trainable parameters as received, in the order of `parameters()`.
        log_prior_C: log of the client's label prior, or `None` without logit adjustment.
    """

    gate: Gate | None
    experts: Sequence[Expert]
    expert_ids: tuple[int, ...]
    num_experts: int
    start: Sequence[Tensor]
    log_prior_C: Tensor | None

    def logits_KBC(self, x_BCHW: Tensor) -> Tensor:
        """Returns the class logits of the held experts, adjusted by the client's label prior where that is on.

        Logit adjustment (Menon et al., arXiv 2007.07314, equation 10): the local loss sees `logits + log prior`, so
        that the expert itself need not learn which labels this client happens to hold.
        """
        logits_KBC = torch.stack([expert(x_BCHW) for expert in self.experts])
        return logits_KBC if self.log_prior_C is None else logits_KBC + self.log_prior_C

    def route(self, gate_BD: Tensor) -> Routing:
        """Returns the routing over the held experts; columns are pool ids."""
        if self.gate is None:
            raise ValueError("this job has no gate; hint: an objective that routes needs ClientJob(gate=True)")
        held_M = torch.zeros(self.num_experts, dtype=torch.bool, device=gate_BD.device)
        held_M[list(self.expert_ids)] = True
        routing: Routing = self.gate(gate_BD, held_M)
        return routing

    def parameters(self) -> list[Tensor]:
        """Returns the trainable parameters: the experts', then the gate's."""
        modules = [*self.experts, *([] if self.gate is None else [self.gate])]
        return [p for module in modules for p in module.parameters() if p.requires_grad]


class Objective(Protocol):
    """A term of a client's loss: one file in `fedmoe/training/objectives/`, a callable without state."""

    def __call__(self, model: LocalModel, batch: Batch, job: ClientJob) -> Tensor:
        """Returns the batch's loss, a scalar (mean over samples)."""
        ...


def load_objective(terms: Sequence[Term]) -> Objective:
    """Returns the sum of the terms as one objective.

    Raises:
        ReferenceError_: a term's name leads nowhere.
    """
    parts = [
        cast(Objective, load_plugin("objective", "fedmoe.training.objectives", term.name)(**term.arguments))
        for term in terms
    ]

    def total(model: LocalModel, batch: Batch, job: ClientJob) -> Tensor:
        return torch.stack([part(model, batch, job) for part in parts]).sum()

    return parts[0] if len(parts) == 1 else total
