"""The mixture of linear Gaussian experts under a top-K sparse softmax gate, and what a client sends of it for EM.

Shapes: N samples, M experts, F features of an expert and G of the gate (each with a constant one, the last).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from fedmoe.federation.logistic_sums import Floats, LogisticSums, log_softmax, logistic_sums

__all__ = ["TopKMixture", "TopKSums", "top_k_sums"]

LEAST_WEIGHT = 1e-8  # of an expert's samples: with less it stays as it is
LEAST_SIGMA = 1e-3  # a line through two points has no spread, and an infinite likelihood


@dataclass(frozen=True)
class TopKMixture:
    """`p(y | x) = sum_m g_m(x) N(y; a_m . x + b_m, sigma_m^2)` (arXiv 2309.13850, equations 1 and 2).

    The gate's weights g are the softmax over the K experts with the greatest scores, 0 for the others.

    Attributes:
        gate_MG: rows `(b1_m, b0_m)`; the last row is 0.
        lines_MF: rows `(a_m, b_m)`.
        sigma_M: standard deviations.
        k: K.
        bias_in_selection: the K are chosen by `b1 . x + b0`, else by `b1 . x`; weights have the bias either way.
    """

    gate_MG: Floats
    lines_MF: Floats
    sigma_M: Floats
    k: int
    bias_in_selection: bool = True

    def log_gate_NM(self, gate_features_NG: Floats) -> Floats:
        """Returns the log-weights: -inf for experts that are not chosen; ties fall to the lower id."""
        scores_NM = gate_features_NG @ self.gate_MG.T
        chosen_by_NM = scores_NM if self.bias_in_selection else scores_NM - self.gate_MG[:, -1]
        order_NM = np.argsort(-chosen_by_NM, axis=1, kind="stable")
        masked_NM = np.full_like(scores_NM, -np.inf)
        best_NK = order_NM[:, : self.k]
        np.put_along_axis(masked_NM, best_NK, np.take_along_axis(scores_NM, best_NK, axis=1), axis=1)
        return log_softmax(masked_NM)

    def log_experts_NM(self, features_NF: Floats, y_N: Floats) -> Floats:
        """Returns each expert's log-density."""
        apart_NM = (y_N[:, None] - features_NF @ self.lines_MF.T) / self.sigma_M
        logs_NM: Floats = -0.5 * apart_NM**2 - np.log(self.sigma_M) - 0.5 * np.log(2 * np.pi)
        return logs_NM

    def with_gate(self, gate_MG: Floats) -> TopKMixture:
        """Returns the same experts under another gate."""
        return replace(self, gate_MG=gate_MG)


@dataclass(frozen=True)
class TopKSums:
    """What the server needs of all samples for a step of EM; those of two clients are added by `+`.

    Attributes:
        log_likelihood: in nats.
        gate: of the regression of responsibilities on the gate's features, among the chosen experts.
        weight_M: responsibilities.
        zz_MFF: of responsibility times feature times feature.
        zy_MF: of responsibility times feature times y.
        yy_M: of responsibility times y squared.
    """

    log_likelihood: float
    gate: LogisticSums
    weight_M: Floats
    zz_MFF: Floats
    zy_MF: Floats
    yy_M: Floats

    def __add__(self, other: TopKSums) -> TopKSums:
        """Returns the sums over both sets of samples."""
        return TopKSums(
            self.log_likelihood + other.log_likelihood,
            self.gate + other.gate,
            self.weight_M + other.weight_M,
            self.zz_MFF + other.zz_MFF,
            self.zy_MF + other.zy_MF,
            self.yy_M + other.yy_M,
        )

    def fitted(self, mixture: TopKMixture) -> TopKMixture:
        """Returns the mixture with the experts of the M-step: weighted least squares, in closed form."""
        lines_MF, sigma_M = mixture.lines_MF.copy(), mixture.sigma_M.copy()
        for m in np.flatnonzero(self.weight_M > LEAST_WEIGHT):
            line_F = np.linalg.lstsq(self.zz_MFF[m], self.zy_MF[m], rcond=None)[0]
            square = (self.yy_M[m] - 2 * line_F @ self.zy_MF[m] + line_F @ self.zz_MFF[m] @ line_F) / self.weight_M[m]
            lines_MF[m], sigma_M[m] = line_F, np.sqrt(max(square, LEAST_SIGMA**2))
        return replace(mixture, lines_MF=lines_MF, sigma_M=sigma_M)


def top_k_sums(mixture: TopKMixture, features_NF: Floats, gate_features_NG: Floats, y_N: Floats) -> TopKSums:
    """Returns a client's sums at the given parameters: the E-step, and all that the M-step needs of it."""
    log_gate_NM = mixture.log_gate_NM(gate_features_NG)
    log_joint_NM = log_gate_NM + mixture.log_experts_NM(features_NF, y_N)
    log_share_NM = log_softmax(log_joint_NM)
    log_likelihood_N = _log_sum(log_joint_NM)
    share_NM = np.exp(log_share_NM)
    return TopKSums(
        float(log_likelihood_N.sum()),
        logistic_sums(gate_features_NG, share_NM, mixture.gate_MG, log_gate_NM),
        share_NM.sum(axis=0),
        np.einsum("nm,nf,ng->mfg", share_NM, features_NF, features_NF),
        share_NM.T @ (features_NF * y_N[:, None]),
        share_NM.T @ y_N**2,
    )


def _log_sum(log_joint_NM: Floats) -> Floats:
    top_N1 = log_joint_NM.max(axis=1, keepdims=True)
    total_N: Floats = (top_N1 + np.log(np.exp(log_joint_NM - top_N1).sum(axis=1, keepdims=True)))[:, 0]
    return total_N
