"""SCAFFOLD's term: what the client's own gradients lack of everybody's is added to every step."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fedmoe.moe.vectors import Vector
from fedmoe.training.objective import Batch, LocalModel

__all__ = ["Control"]


@dataclass(frozen=True)
class Control:
    """`<c - c_i, w>`, whose gradient is SCAFFOLD's correction (Karimireddy et al., arXiv 1910.06378, algorithm 1).

    The job must name `control` among its `memory` (the client's control variate c_i) and among what is `shared` (the
    server's c); both are 0 at first. It adds nothing that a reader should take for a loss: it may be negative.
    """

    def __call__(self, model: LocalModel, batch: Batch) -> Tensor:
        """Returns the inner product over all trained parameters.

        Raises:
            KeyError: the job does not name `control`.
        """
        triples = zip(model.trained, model.shared["control"], model.memory["control"], strict=True)
        return torch.stack([(w * (ours - own)).sum() for w, ours, own in triples]).sum()

    def after(
        self, moved: Vector, shared: Mapping[str, Vector], memory: Mapping[str, Vector], reach: float
    ) -> tuple[Mapping[str, Vector], Mapping[str, Vector]]:
        """Returns c_i as option II has it, `c_i - c + (x - y_i) / (K eta)`, and how much it has changed.

        `reach` stands for `K eta`: the same without momentum, and what a gradient is worth with it. So c_i is the mean
        of the client's own gradients on its way, the later ones of less weight where there is momentum.
        """
        new = memory["control"] - shared["control"] + moved / reach
        return {"control": new}, {"control": new - memory["control"]}
