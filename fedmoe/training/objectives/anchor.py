"""FedJETs' anchor: its own expert learns the labels, the gate learns that this is the anchor's expert."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from fedmoe.training.objective import Batch, LocalModel

__all__ = ["Anchor"]


@dataclass(frozen=True)
class Anchor:
    """Two separate losses: `CE(f(x; W_q), y) + CE(g(x), q)` (arXiv 2306.08586, section 3, an anchor client's losses).

    They share no parameter, so their sum trains each as if alone.

    Attributes:
        gate_labels: the gate also minimises `CE(g_q(x) f(x; W_q), y)` with the expert's logits held fixed: it learns to
            trust the expert where the expert is right. The paper leaves open whether anchors do so.
    """

    gate_labels: bool = False

    def __call__(self, model: LocalModel, batch: Batch) -> Tensor:
        """Returns the sum of the mean losses; a gate that cannot learn adds a constant."""
        own = model.expert_ids_K[0]
        logits_BC = model.logits_KBC(batch.x_BCHW)[0]
        scores_BM = model.scores(batch.gate_BD)
        loss_B = cross_entropy(logits_BC, batch.y_B, reduction="none")
        loss_B = loss_B + cross_entropy(scores_BM, own.expand_as(batch.y_B), reduction="none")
        if self.gate_labels:
            trust_B1 = torch.softmax(scores_BM, dim=1).index_select(1, own.view(1))
            loss_B = loss_B + cross_entropy(trust_B1 * logits_BC.detach(), batch.y_B, reduction="none")
        return batch.mean(loss_B)
