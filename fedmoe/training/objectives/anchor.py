"""FedJETs' anchor: its own expert learns the labels, the gate learns that this is the anchor's expert."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from fedmoe.federation.job import ClientJob
from fedmoe.training.objective import Batch, LocalModel

__all__ = ["Anchor"]


@dataclass(frozen=True)
class Anchor:
    """Two separate losses: `CE(f(x; W_q), y) + CE(g(x), q)` (arXiv 2306.08586, section 3, an anchor client's losses).

    They share no parameter, so their sum trains each as if alone.
    """

    def __call__(self, model: LocalModel, batch: Batch, job: ClientJob) -> Tensor:
        """Returns the sum of both mean losses; a gate that cannot learn adds a constant."""
        expert_loss = cross_entropy(model.logits_KBC(batch.x_BCHW)[0], batch.y_B)
        if model.gate is None:
            raise ValueError("an anchor's job needs the gate; hint: ClientJob(gate=True)")
        target_B = torch.full_like(batch.y_B, model.expert_ids[0])
        return expert_loss + cross_entropy(model.gate.scores(batch.gate_BD), target_B)
