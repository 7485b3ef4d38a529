"""The mixture of multinomial logistic experts: its probabilities, and what a client sends of its samples for EM.

Shapes: N samples, M experts, C classes, F features of an expert and G of the gate (each with a constant one), P free
parameters: gate_MG without its last row, then experts_MCF without each expert's last class, which are 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedmoe.federation.logistic_sums import Floats, LogisticSums, log_softmax, logistic_sums

__all__ = ["LogisticMixture", "MixtureSums", "mixture_sums", "rows_of", "vector_of"]

Floats32 = NDArray[np.float32]


@dataclass(frozen=True)
class LogisticMixture:
    """`p(y = c | x) = sum_m softmax_m(b1_m . t(x) + b0_m) softmax_c(w_mc . x + a_mc)` (arXiv 2310.14188, equation 1).

    Attributes:
        gate_MG: rows `(b1_m, b0_m)`; the last row is 0, for a shift of all rows changes nothing.
        experts_MCF: rows `(w_mc, a_mc)`; the last class of each is 0, likewise.
    """

    gate_MG: Floats
    experts_MCF: Floats

    def log_gate_NM(self, gate_features_NG: Floats) -> Floats:
        """Returns the log-weights of the experts."""
        return log_softmax(gate_features_NG @ self.gate_MG.T)

    def log_experts_NMC(self, features_NF: Floats) -> Floats:
        """Returns each expert's log-probabilities."""
        return log_softmax(np.einsum("nf,mcf->nmc", features_NF, self.experts_MCF))

    def probs_NC(self, features_NF: Floats, gate_features_NG: Floats) -> Floats:
        """Returns the mixture's probabilities."""
        joint_NMC = self.log_gate_NM(gate_features_NG)[:, :, None] + self.log_experts_NMC(features_NF)
        probs_NC: Floats = np.exp(joint_NMC).sum(axis=1)
        return probs_NC

    def free_P(self) -> Floats:
        """Returns the free parameters, one after another."""
        return np.concatenate([self.gate_MG[:-1].ravel(), self.experts_MCF[:, :-1].ravel()])

    def moved(self, by_P: Floats) -> LogisticMixture:
        """Returns the mixture whose free parameters are `by_P` further."""
        split = self.gate_MG[:-1].size
        gate_MG, experts_MCF = self.gate_MG.copy(), self.experts_MCF.copy()
        gate_MG[:-1] += by_P[:split].reshape(gate_MG[:-1].shape)
        experts_MCF[:, :-1] += by_P[split:].reshape(experts_MCF[:, :-1].shape)
        return LogisticMixture(gate_MG, experts_MCF)


@dataclass(frozen=True)
class MixtureSums:
    """What the server needs of all samples for a step of EM; those of two clients are added by `+`.

    Attributes:
        weight: number of samples.
        log_likelihood: in nats.
        gate: of the regression of responsibilities on the gate's features.
        experts: of each expert's regression of labels on features, samples weighted by its responsibilities.
        missing_PP: what of the information is missing because nobody sees which expert a sample is from; `None`: not
            asked for.
    """

    weight: float
    log_likelihood: float
    gate: LogisticSums
    experts: tuple[LogisticSums, ...]
    missing_PP: Floats | None = None

    def __add__(self, other: MixtureSums) -> MixtureSums:
        """Returns the sums over both sets of samples.

        Raises:
            ValueError: one of them lacks the missing information.
        """
        if (self.missing_PP is None) != (other.missing_PP is None):
            raise ValueError("sums with and without missing information do not add up; hint: ask all clients alike")
        both = None if self.missing_PP is None or other.missing_PP is None else self.missing_PP + other.missing_PP
        return MixtureSums(
            self.weight + other.weight,
            self.log_likelihood + other.log_likelihood,
            self.gate + other.gate,
            tuple(one + two for one, two in zip(self.experts, other.experts, strict=True)),
            both,
        )

    def gradient_P(self) -> Floats:
        """Returns the log-likelihood's gradient in the free parameters; it is that of EM's surrogate, too."""
        return np.concatenate(
            [self.gate.gradient_SF[:-1].ravel(), *(own.gradient_SF[:-1].ravel() for own in self.experts)]
        )

    def complete_PP(self) -> Floats:
        """Returns the information of EM's surrogate: a block for the gate and one for each expert."""
        blocks = []
        for own in (self.gate, *self.experts):
            free = own.information_SFSF[:-1, :, :-1, :]
            width = free.shape[0] * free.shape[1]
            blocks.append(free.reshape(width, width))
        size = sum(len(block) for block in blocks)
        whole_PP, start = np.zeros((size, size)), 0
        for block in blocks:
            whole_PP[start : start + len(block), start : start + len(block)] = block
            start += len(block)
        return whole_PP


def mixture_sums(
    mixture: LogisticMixture,
    features_NF: Floats,
    gate_features_NG: Floats,
    labels_N: np.typing.NDArray[np.int64],
    weight_N: Floats | None = None,
    missing: bool = False,
) -> MixtureSums:
    """Returns a client's sums at the given parameters: the E-step, and all that the M-step needs of it.

    Args:
        mixture: where the sums are taken.
        features_NF: x and a constant.
        gate_features_NG: t(x) and a constant.
        labels_N: classes.
        weight_N: how often each sample counts; `None`: once.
        missing: also give the missing information, P x P numbers.
    """
    weight_N = np.ones(len(labels_N)) if weight_N is None else weight_N
    onehot_NC = np.eye(mixture.experts_MCF.shape[1])[labels_N]
    log_gate_NM = mixture.log_gate_NM(gate_features_NG)
    rows_N = np.arange(len(labels_N))
    log_joint_NM = log_gate_NM + mixture.log_experts_NMC(features_NF)[rows_N, :, labels_N]
    top_N1 = log_joint_NM.max(axis=1, keepdims=True)
    log_likelihood_N = (top_N1 + np.log(np.exp(log_joint_NM - top_N1).sum(axis=1, keepdims=True)))[:, 0]
    share_NM = weight_N[:, None] * np.exp(log_joint_NM - log_likelihood_N[:, None])
    experts = tuple(
        logistic_sums(features_NF, share_NM[:, m, None] * onehot_NC, theta_CF)
        for m, theta_CF in enumerate(mixture.experts_MCF)
    )
    gate = logistic_sums(gate_features_NG, share_NM, mixture.gate_MG)
    lost_PP = _missing(mixture, features_NF, gate_features_NG, onehot_NC, share_NM, weight_N) if missing else None
    return MixtureSums(float(weight_N.sum()), float(weight_N @ log_likelihood_N), gate, experts, lost_PP)


def _missing(
    mixture: LogisticMixture,
    features_NF: Floats,
    gate_features_NG: Floats,
    onehot_NC: Floats,
    share_NM: Floats,
    weight_N: Floats,
) -> Floats:
    """Returns the sum over samples of the covariance of the complete data's score, given the sample (Louis 1982)."""
    num_samples, num_experts = share_NM.shape
    residual_NMC = onehot_NC[:, None, :-1] - np.exp(mixture.log_experts_NMC(features_NF))[:, :, :-1]
    split, size = mixture.gate_MG[:-1].size, mixture.free_P().size
    score_NMP = np.zeros((num_samples, num_experts, size))
    own_NMQ = (residual_NMC[..., None] * features_NF[:, None, None, :]).reshape(num_samples, num_experts, -1)
    width_gate, width_expert = gate_features_NG.shape[1], own_NMQ.shape[2]
    for m in range(num_experts):
        if m < num_experts - 1:
            score_NMP[:, m, m * width_gate : (m + 1) * width_gate] = gate_features_NG
        score_NMP[:, m, split + m * width_expert : split + (m + 1) * width_expert] = own_NMQ[:, m]
    flat_QP = score_NMP.reshape(-1, size)
    second_PP = (share_NM.reshape(-1, 1) * flat_QP).T @ flat_QP
    mean_NP = np.einsum("nm,nmp->np", share_NM, score_NMP)
    safe_N = np.where(weight_N > 0, weight_N, 1.0)
    lost_PP: Floats = second_PP - mean_NP.T @ (mean_NP / safe_N[:, None])
    return lost_PP


def rows_of(vector: Floats32, count: int) -> Floats:
    """Returns a linear layer's weights and biases as rows, less the last row: a softmax does not see a shift."""
    weights, biases = vector[:-count].reshape(count, -1), vector[-count:]
    rows: Floats = np.concatenate([weights, biases[:, None]], axis=1).astype(np.float64)
    rows -= rows[-1].copy()
    return rows


def vector_of(rows: Floats) -> Floats32:
    """Returns the rows as a linear layer's vector."""
    return np.concatenate([rows[:, :-1].ravel(), rows[:, -1]]).astype(np.float32)
