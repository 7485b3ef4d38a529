"""TRADES' term: the output, and the routing, shall stay the same under attack."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fedmoe.moe.mixture import mix, with_common
from fedmoe.training.attack import Attack, nudge
from fedmoe.training.objective import Batch, LocalModel

__all__ = ["Trades"]

AIMS = ("both", "output")


@dataclass(frozen=True)
class Trades:
    """`beta KL(f(x) || f(x')) + routing KL(g(x) || g(x'))` beside a loss on clean images (arXiv 1901.08573, eq. 5).

    f is the output (the held experts', weighted by the gate; of a job without gate its first expert's), g the softmax
    of the gate's scores over the pool. x' is found by PGD within eps of x: it maximises both divergences' sum, whatever
    their weights here are, or, with `aim="output"`, the first alone. With `mixture` it is AdvMoE's experts' loss (arXiv
    2308.10110; beta = 6), with `mixture` and a weight on routing its router's; aimed at the output, it is TRADES of
    the mixture as of one network.

    Their released code gives the router `y mod M` to learn as a class. That fixes by hand who is whose expert, on
    labels that an image does not show and that mean nothing to clients who hold a few of them; where experts are found
    by what clients hold, it works against the ranking. Here the router's other half is the mixture's loss.

    A gate that reads images sees x'; of any other the routing is that of the clean image, for what it reads was
    computed before. Experts need two passes forward, and both ways in each of the attack's steps.

    Attributes:
        eps: how far a pixel may move, as a share of its range.
        step: how far at once, likewise.
        steps: of the attack.
        beta: weight of the output's divergence, at least 0.
        routing: weight of the routing's, at least 0.
        output: mix `"probability"` or `"logit"`.
        aim: what the attack maximises: `"both"` divergences' sum, or the `"output"`'s.
    """

    eps: float = 8 / 255
    step: float = 5 / 255
    steps: int = 2
    beta: float = 6.0
    routing: float = 0.0
    output: str = "probability"
    aim: str = "both"

    def __post_init__(self) -> None:
        if self.aim not in AIMS:
            raise ValueError(f"an attack aims at one of {', '.join(AIMS)}, got '{self.aim}'; hint: both")

    def __call__(self, model: LocalModel, batch: Batch) -> Tensor:
        """Returns the weighted divergences, at least 0.

        Raises:
            ValueError: the experts do not read images.
        """
        clean = self._at(model, batch, batch.x_BCHW)
        fixed = tuple(log_probs.detach() for log_probs in (clean if self.aim == "both" else clean[:1]))

        def figure(x_BCHW: Tensor) -> Tensor:
            pairs = zip(fixed, self._at(model, batch, x_BCHW), strict=False)
            return torch.stack([divergence(one, other).sum() for one, other in pairs]).sum()

        attack = Attack(self.eps, self.step, self.steps)
        x_BCHW = attack.on(figure, batch.x_BCHW, model.span, nudge(batch.x_BCHW))
        pairs = zip((self.beta, self.routing), clean, self._at(model, batch, x_BCHW), strict=False)
        return torch.stack([weight * batch.mean(divergence(one, other)) for weight, one, other in pairs]).sum()

    def _at(self, model: LocalModel, batch: Batch, x_BCHW: Tensor) -> tuple[Tensor, ...]:
        """Returns the logarithms of f, and where there is a gate of g, at these inputs."""
        logits_KBC = model.logits_KBC(x_BCHW)
        if model.gate is None:
            return (torch.log_softmax(logits_KBC[0], dim=1),)
        scores_BM = model.scores(batch.gate_input(x_BCHW, model.gate.reads))
        weights_BK = model.gate.weigh(scores_BM, model.expert_ids_K)
        if model.falls_back:
            logits_KBC, weights_BK = with_common(logits_KBC, weights_BK, model.adjusted(batch.common_BC))
        return mix(logits_KBC, weights_BK, self.output), torch.log_softmax(scores_BM, dim=1)


def divergence(log_p_BC: Tensor, log_q_BC: Tensor) -> Tensor:
    """Returns `KL(p || q)` of each row, nats."""
    return (log_p_BC.exp() * (log_p_BC - log_q_BC)).sum(dim=1)
