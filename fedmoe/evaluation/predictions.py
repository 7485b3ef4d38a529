"""What the experts' outputs come to: the ways to predict a client's samples, and how often each is right.

Shapes: B samples of one client, M experts, K held ones, C classes.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedmoe.evaluation.prior_em import correct_priors
from fedmoe.evaluation.serving import Serving
from fedmoe.moe.mixture import mix, with_common
from fedmoe.moe.routing import best_held, held_softmax

__all__ = ["Answers", "HeldAnswers", "Weighing", "accuracies_of", "corrections", "predictions_of", "share_of"]

Weighing = Callable[[Tensor, Tensor], Tensor]
"""Scores over the pool, ids of the held experts -> weights of the held ones, as `Gate.weigh` has it."""


@dataclass(frozen=True)
class HeldAnswers:
    """What the held experts say of some samples, ready to be chosen from and mixed.

    Attributes:
        best_B: the column of each sample's best one.
        weights_BK: theirs; the last column is the common expert's, where the gate falls back.
        logits_KBC: theirs, in the same order.
    """

    best_B: Tensor
    weights_BK: Tensor
    logits_KBC: Tensor


@dataclass(frozen=True)
class Answers:
    """What the gate and the experts say of one client's samples, on the CPU.

    Attributes:
        held: its K experts, best first.
        scores: its score of every expert.
        logits_BM: the gate's.
        outputs: expert id -> logits_BC; of the held experts at least.
        y_B: labels.
        common_BC: the common expert's logits; needed where it has a vote, or the gate falls back.
        weigh: the gate's rule of weights.
        falls_back: whether what it leaves is the common expert's.
    """

    held: tuple[int, ...]
    scores: Sequence[float]
    logits_BM: Tensor
    outputs: Mapping[int, Tensor]
    y_B: Tensor
    common_BC: Tensor | None = None
    weigh: Weighing = held_softmax
    falls_back: bool = False

    def of_held(self, rows_B: Tensor | None = None, held: Sequence[int] | None = None) -> HeldAnswers:
        """Returns what the held experts say, best for the client first.

        Args:
            rows_B: of which samples; `None`: of all.
            held: other experts than `held`, best first.

        Raises:
            ValueError: the gate falls back, and the common expert's logits are not given.
        """
        ids = list(self.held if held is None else held)
        rows_B = torch.arange(len(self.logits_BM)) if rows_B is None else rows_B
        logits_BM = self.logits_BM[rows_B]
        weights_BK = self.weigh(logits_BM, torch.tensor(ids))
        logits_KBC = torch.stack([self.outputs[i][rows_B] for i in ids])
        if self.falls_back:
            if self.common_BC is None:
                raise ValueError("the gate falls back on the common expert, but its logits are not given")
            logits_KBC, weights_BK = with_common(logits_KBC, weights_BK, self.common_BC[rows_B])
        return HeldAnswers(best_held(logits_BM[:, ids], weights_BK), weights_BK, logits_KBC)


def predictions_of(held: HeldAnswers, serving: Serving, common_BC: Tensor | None = None) -> dict[str, Tensor]:
    """Returns the log_probs_BC of each way to predict: by each sample's best held expert, by the mixture.

    Args:
        held: what the held experts say.
        serving: how the client is served.
        common_BC: the common expert's logits, where it has a vote.

    Raises:
        ValueError: the common expert has a vote, and its logits are not given.
    """
    chosen_BC = held.logits_KBC[held.best_B, torch.arange(len(held.best_B))]
    predictions = {"zero_shot": torch.log_softmax(chosen_BC, dim=1)}
    if len(held.logits_KBC) > 1:
        mixture = mix(held.logits_KBC, held.weights_BK, serving.output)
        predictions["zero_shot" if serving.answer == "mixture" else "mixture"] = mixture
    if not serving.common_vote:
        return predictions
    if common_BC is None:
        raise ValueError("the common expert has a vote, but its logits are not given")
    vote_BC = torch.log_softmax(common_BC, dim=1) + math.log(serving.common_vote)
    rest = math.log1p(-serving.common_vote)
    return {name: torch.logaddexp(own_BC + rest, vote_BC) for name, own_BC in predictions.items()}


def corrections(doubt: float) -> dict[str, float]:
    """Returns the ways to correct the label prior, what they add to a prediction's name -> the doubt in its answers.

    >>> corrections(0.0), corrections(0.2)
    ({'em': 0.0}, {'em': 0.0, 'guarded': 0.2})
    """
    return {"em": 0.0, **({"guarded": doubt} if doubt else {})}


def accuracies_of(
    predictions: Sequence[Mapping[str, Tensor]], labels: Sequence[Tensor], train_prior_C: Tensor, doubt: float = 0.0
) -> list[dict[str, float]]:
    """Returns each client's accuracy by each prediction (log_probs_BC): as it is, and with prior correction (`_em`).

    With doubt above 0 also with the guarded one (`_guarded`).
    """
    every = [log_probs_BC for own in predictions for log_probs_BC in own.values()]
    corrected = {way: iter(correct_priors(every, train_prior_C, doubt=its)) for way, its in corrections(doubt).items()}
    accuracies = []
    for own, y_B in zip(predictions, labels, strict=True):
        shares = {}
        for name, log_probs_BC in own.items():
            shares[name] = share_of(log_probs_BC.argmax(dim=1) == y_B)
            for way, found in corrected.items():
                shares[f"{name}_{way}"] = share_of(next(found).argmax(dim=1) == y_B)
        accuracies.append(shares)
    return accuracies


def share_of(hits_B: Tensor) -> float:
    """Returns the share that is true."""
    return float(hits_B.double().mean())
