"""What the experts' outputs come to: the ways to predict a client's samples, and how often each is right.

Shapes: B samples of one client, M experts, K held ones, C classes.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedmoe.evaluation.prior_em import correct_priors
from fedmoe.evaluation.serving import Serving
from fedmoe.moe.mixture import mix

__all__ = ["Answers", "accuracies_of", "predictions_of", "share_of"]


@dataclass(frozen=True)
class Answers:
    """What the gate and the experts say of one client's samples, on the CPU.

    Attributes:
        held: its K experts, best first.
        scores: its score of every expert.
        logits_BM: the gate's.
        outputs: expert id -> logits_BC; of the held experts at least.
        y_B: labels.
        common_BC: the common expert's logits; needed where it has a vote.
    """

    held: tuple[int, ...]
    scores: Sequence[float]
    logits_BM: Tensor
    outputs: Mapping[int, Tensor]
    y_B: Tensor
    common_BC: Tensor | None = None

    def of_held(self) -> tuple[Tensor, Tensor]:
        """Returns the held experts' scores_BK and logits_KBC, best first."""
        return self.logits_BM[:, list(self.held)], torch.stack([self.outputs[i] for i in self.held])


def predictions_of(
    scores_BK: Tensor, logits_KBC: Tensor, serving: Serving, common_BC: Tensor | None = None
) -> dict[str, Tensor]:
    """Returns the log_probs_BC of each way to predict: by each sample's best held expert, by the mixture.

    Args:
        scores_BK: of each sample's held experts, the client's best one first.
        logits_KBC: theirs.
        serving: how the client is served.
        common_BC: the common expert's logits, where it has a vote.

    Raises:
        ValueError: the common expert has a vote, and its logits are not given.
    """
    chosen_BC = logits_KBC[scores_BK.argmax(dim=1), torch.arange(len(scores_BK))]
    predictions = {"zero_shot": torch.log_softmax(chosen_BC, dim=1)}
    if len(logits_KBC) > 1:
        mixture = mix(logits_KBC, torch.softmax(scores_BK, dim=1), serving.output)
        predictions["zero_shot" if serving.answer == "mixture" else "mixture"] = mixture
    if not serving.common_vote:
        return predictions
    if common_BC is None:
        raise ValueError("the common expert has a vote, but its logits are not given")
    vote_BC = torch.log_softmax(common_BC, dim=1) + math.log(serving.common_vote)
    rest = math.log1p(-serving.common_vote)
    return {name: torch.logaddexp(own_BC + rest, vote_BC) for name, own_BC in predictions.items()}


def accuracies_of(
    predictions: Sequence[Mapping[str, Tensor]], labels: Sequence[Tensor], train_prior_C: Tensor
) -> list[dict[str, float]]:
    """Returns each client's accuracy by each prediction (log_probs_BC): as it is, and with prior correction (`_em`)."""
    corrected = iter(correct_priors([every for own in predictions for every in own.values()], train_prior_C))
    accuracies = []
    for own, y_B in zip(predictions, labels, strict=True):
        shares = {}
        for name, log_probs_BC in own.items():
            shares[name] = share_of(log_probs_BC.argmax(dim=1) == y_B)
            shares[f"{name}_em"] = share_of(next(corrected).argmax(dim=1) == y_B)
        accuracies.append(shares)
    return accuracies


def share_of(hits_B: Tensor) -> float:
    """Returns the share that is true."""
    return float(hits_B.double().mean())
