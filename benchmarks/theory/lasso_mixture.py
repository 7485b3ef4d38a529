"""The L1-penalised mixture of two Gaussian experts under a softmax gate: its objective, and a fit that never worsens.

Shapes: N samples, P features, M experts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from fedmoe.federation.logistic_sums import Floats, log_softmax

__all__ = ["Mixture", "Penalty", "fit", "objective", "score"]

LEAST_SIGMA = 0.05  # with as many features as samples the likelihood has no bound: one expert may pass through all
STEPS = 10  # of proximal gradient in each M-step, of experts and of the gate


@dataclass(frozen=True)
class Mixture:
    """`p(y | x) = sum_m softmax_m(g_m . x + g0_m) N(y; b_m . x + b0_m, s_m^2)` (arXiv 2009.10622).

    Attributes:
        gate_MP: g; the last row is 0, for a shift of all changes nothing, and with two experts costs nothing either.
        gate0_M: g0, likewise.
        lines_MP: b.
        lines0_M: b0.
        sigma_M: s.
    """

    gate_MP: Floats
    gate0_M: Floats
    lines_MP: Floats
    lines0_M: Floats
    sigma_M: Floats

    def log_gate_NM(self, x_NP: Floats) -> Floats:
        """Returns the log-weights of the experts."""
        return log_softmax(x_NP @ self.gate_MP.T + self.gate0_M)

    def log_joint_NM(self, x_NP: Floats, y_N: Floats) -> Floats:
        """Returns the log of each expert's share of the density."""
        apart_NM = (y_N[:, None] - x_NP @ self.lines_MP.T - self.lines0_M) / self.sigma_M
        logs_NM: Floats = self.log_gate_NM(x_NP) - 0.5 * apart_NM**2 - np.log(self.sigma_M) - 0.5 * np.log(2 * np.pi)
        return logs_NM


@dataclass(frozen=True)
class Penalty:
    """`strength (|g|_1 + |b|_1)`, or half the sum of squares; intercepts and deviations are free.

    Attributes:
        strength: lambda.
        kind: `"l1"` or `"l2"`.
        scaled: whether it is on `b / s` in place of b (Städler, Bühlmann and van de Geer, arXiv 1202.6046): then an
            expert with a small deviation is not a cheap way through all samples, and units of y do not matter.
    """

    strength: float
    kind: str = "l1"
    scaled: bool = True

    def value(self, slopes: Floats) -> float:
        """Returns what slopes add to the objective."""
        size = np.abs(slopes).sum() if self.kind == "l1" else 0.5 * (slopes**2).sum()
        return self.strength * float(size)

    def of(self, mixture: Mixture) -> float:
        """Returns what a mixture's slopes add to the objective."""
        scale_M1 = mixture.sigma_M[:, None] if self.scaled else 1.0
        return self.value(mixture.gate_MP) + self.value(mixture.lines_MP / scale_M1)

    def step(self, slopes: Floats, rate: float) -> Floats:
        """Returns the proximal step."""
        if self.kind == "l2":
            return slopes / (1 + rate * self.strength)
        shrunk: Floats = np.sign(slopes) * np.maximum(np.abs(slopes) - rate * self.strength, 0)
        return shrunk


def score(mixture: Mixture, x_NP: Floats, y_N: Floats) -> float:
    """Returns the mean negative log-likelihood, in nats."""
    return -float(np.logaddexp.reduce(mixture.log_joint_NM(x_NP, y_N), axis=1).mean())


def objective(mixture: Mixture, penalty: Penalty, x_NP: Floats, y_N: Floats) -> float:
    """Returns the penalised mean negative log-likelihood."""
    return score(mixture, x_NP, y_N) + penalty.of(mixture)


def fit(
    start: Mixture, penalty: Penalty, x_NP: Floats, y_N: Floats, *, rounds: int = 300, tolerance: float = 1e-6
) -> Mixture:
    """Returns where EM with proximal gradient steps ends; its objective falls, or stays, in every round.

    Args:
        start: where to begin.
        penalty: on slopes.
        x_NP: inputs.
        y_N: outputs.
        rounds: of EM, at most.
        tolerance: fall of the objective below which to stop.
    """
    curvature = float(np.linalg.norm(np.c_[x_NP, np.ones(len(x_NP))], 2) ** 2) / len(x_NP)
    mixture, before = start, objective(start, penalty, x_NP, y_N)
    for _ in range(rounds):
        log_joint_NM = mixture.log_joint_NM(x_NP, y_N)
        share_NM = np.exp(log_softmax(log_joint_NM))
        mixture = with_experts(mixture, penalty, x_NP, y_N, share_NM, curvature)
        mixture = with_gate(mixture, penalty, x_NP, share_NM, curvature)
        now = objective(mixture, penalty, x_NP, y_N)
        if before - now < tolerance:
            break
        before = now
    return mixture


def with_experts(
    mixture: Mixture, penalty: Penalty, x_NP: Floats, y_N: Floats, share_NM: Floats, curvature: float
) -> Mixture:
    """Returns the mixture after the experts' part of an M-step: steps on their lines and their deviations."""
    lines_MP, lines0_M, sigma_M = (own.copy() for own in (mixture.lines_MP, mixture.lines0_M, mixture.sigma_M))
    for m in range(len(sigma_M)):
        fitted = scaled_expert if penalty.scaled else plain_expert
        lines_MP[m], lines0_M[m], sigma_M[m] = fitted(
            (lines_MP[m], float(lines0_M[m]), float(sigma_M[m])),
            penalty,
            x_NP,
            y_N,
            share_NM[:, m] / len(y_N),
            curvature,
        )
    return replace(mixture, lines_MP=lines_MP, lines0_M=lines0_M, sigma_M=sigma_M)


Expert = tuple[Floats, float, float]


def plain_expert(
    own: Expert, penalty: Penalty, x_NP: Floats, y_N: Floats, weight_N: Floats, curvature: float
) -> Expert:
    """Returns slopes, intercept and deviation after steps of a weighted regression with the penalty on slopes."""
    slopes_P, constant, sigma = own
    rate = sigma**2 / curvature
    for _ in range(STEPS):
        apart_N = weight_N * (x_NP @ slopes_P + constant - y_N) / sigma**2
        slopes_P = penalty.step(slopes_P - rate * (x_NP.T @ apart_N), rate)
        constant -= rate * float(apart_N.sum())
    square = float(weight_N @ (y_N - x_NP @ slopes_P - constant) ** 2) / max(float(weight_N.sum()), 1e-12)
    return slopes_P, constant, float(np.sqrt(max(square, LEAST_SIGMA**2)))


def scaled_expert(
    own: Expert, penalty: Penalty, x_NP: Floats, y_N: Floats, weight_N: Floats, curvature: float
) -> Expert:
    """Returns the same where the penalty is on slopes over deviation: convex in those and in one over the deviation."""
    precision = 1 / own[2]
    slopes_P, constant, rate = own[0] * precision, own[1] * precision, 1 / curvature
    square, total = float(weight_N @ y_N**2), float(weight_N.sum())
    for _ in range(STEPS):
        apart_N = weight_N * (x_NP @ slopes_P + constant - precision * y_N)
        slopes_P = penalty.step(slopes_P - rate * (x_NP.T @ apart_N), rate)
        constant -= rate * float(apart_N.sum())
        along = float((weight_N * y_N) @ (x_NP @ slopes_P + constant))
        precision = (along + np.sqrt(along**2 + 4 * square * total)) / (2 * square)
        precision = min(precision, 1 / LEAST_SIGMA)
    return slopes_P / precision, constant / precision, float(1 / precision)


def with_gate(mixture: Mixture, penalty: Penalty, x_NP: Floats, share_NM: Floats, curvature: float) -> Mixture:
    """Returns the mixture after the gate's part of an M-step, of two experts: a logistic regression on the shares."""
    wanted_N = share_NM[:, 0]

    def gradient(slopes_P: Floats, constant: float) -> tuple[Floats, float]:
        apart_N = (1 / (1 + np.exp(-np.clip(x_NP @ slopes_P + constant, -500, 500))) - wanted_N) / len(wanted_N)
        return x_NP.T @ apart_N, float(apart_N.sum())

    gate_MP, gate0_M = mixture.gate_MP.copy(), mixture.gate0_M.copy()
    gate_MP[0], gate0_M[0] = descended(gate_MP[0], float(gate0_M[0]), gradient, penalty, 4 / curvature)
    return replace(mixture, gate_MP=gate_MP, gate0_M=gate0_M)


def descended(
    slopes_P: Floats,
    constant: float,
    gradient: Callable[[Floats, float], tuple[Floats, float]],
    penalty: Penalty,
    rate: float,
) -> tuple[Floats, float]:
    """Returns where some proximal gradient steps lead, each from the last point: the convex part never rises."""
    for _ in range(STEPS):
        by_P, by_constant = gradient(slopes_P, constant)
        slopes_P, constant = penalty.step(slopes_P - rate * by_P, rate), constant - rate * by_constant
    return slopes_P, constant
