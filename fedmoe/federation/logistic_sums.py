"""What a weighted multinomial logistic regression leaves of its samples: sums, which add up over clients.

Shapes: N samples, F features (a constant one among them), S categories, P parameters.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Floats", "LogisticSums", "log_softmax", "logistic_sums"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class LogisticSums:
    """Sums over samples at given parameters theta_SF; those of two sets of samples are added by `+`.

    Attributes:
        value: of `t_ns log p_ns`, in nats.
        gradient_SF: of `(t_ns - w_n p_ns) z_nf`, the value's gradient.
        information_SFSF: of `w_n (p_ns [s = s'] - p_ns p_ns') z_nf z_nf'`, minus the value's Hessian.
    """

    value: float
    gradient_SF: Floats
    information_SFSF: Floats

    def __add__(self, other: LogisticSums) -> LogisticSums:
        """Returns the sums over both sets of samples."""
        return LogisticSums(
            self.value + other.value,
            self.gradient_SF + other.gradient_SF,
            self.information_SFSF + other.information_SFSF,
        )


def log_softmax(scores: Floats) -> Floats:
    """Returns log-probabilities over the last axis."""
    shifted: Floats = scores - scores.max(axis=-1, keepdims=True)
    logs: Floats = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return logs


def logistic_sums(
    features_NF: Floats, targets_NS: Floats, theta_SF: Floats, log_probs_NS: Floats | None = None
) -> LogisticSums:
    """Returns the sums of the regression `p_s = softmax_s(theta_s . z)` with soft targets.

    Iteratively reweighted least squares is Newton's method on its value: each step needs these sums and no sample.

    Args:
        features_NF: z.
        targets_NS: t, at least 0; a row's sum is the sample's weight w.
        theta_SF: where the sums are taken.
        log_probs_NS: where not all categories are open to every sample: the log-probabilities there, -inf for those
            that are closed, whose target is 0; `None`: all are open.
    """
    log_probs_NS = log_softmax(features_NF @ theta_SF.T) if log_probs_NS is None else log_probs_NS
    weight_N, probs_NS = targets_NS.sum(axis=1), np.exp(log_probs_NS)
    mass_NS = weight_N[:, None] * probs_NS
    gradient_SF = (targets_NS - mass_NS).T @ features_NF
    num_categories, num_features = theta_SF.shape
    both_NP = (probs_NS[:, :, None] * features_NF[:, None, :]).reshape(len(features_NF), -1)
    shape = (num_categories, num_features, num_categories, num_features)
    information = -((weight_N[:, None] * both_NP).T @ both_NP).reshape(shape)
    for s in range(num_categories):
        information[s, :, s, :] += (mass_NS[:, s, None] * features_NF).T @ features_NF
    value = float((targets_NS * np.where(targets_NS > 0, log_probs_NS, 0.0)).sum())
    return LogisticSums(value, gradient_SF, information)
