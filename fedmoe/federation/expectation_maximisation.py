"""Federated expectation maximisation: the server's steps, from sums over all clients' samples.

A round is one message each way: the server sends a point, clients send their sums there (`mixture_sums`). Summed over
any split of the samples into clients they are those of the pooled samples, so the steps are the pooled ones.

Shapes: P free parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fedmoe.federation.logistic_mixture import LogisticMixture
from fedmoe.federation.logistic_sums import Floats

__all__ = ["Ascent", "AscentSums", "climb"]

MOST_DAMPING = 1e8  # where even so short a step loses, it is by rounding
RIDGE = 1e-12  # of the largest information: keeps what no sample tells about where it is


class AscentSums(Protocol):
    """What an ascent needs of all samples at a point: `MixtureSums`, or means of them."""

    @property
    def log_likelihood(self) -> float:
        """Returns what is to be raised, in nats."""
        ...

    @property
    def missing_PP(self) -> Floats | None:
        """Returns the missing information; `None`: not asked for."""
        ...

    def gradient_P(self) -> Floats:
        """Returns the log-likelihood's gradient."""
        ...

    def complete_PP(self) -> Floats:
        """Returns the information of EM's surrogate."""
        ...


@dataclass(frozen=True)
class Ascent:
    """Where the server stands, after any number of rounds; the log-likelihood of what it accepts never falls.

    The M-step has no closed form, so a step of it is Newton's, `I_c^-1 gradient` with the information I_c of EM's
    surrogate (iteratively reweighted least squares), shortened by `1 / (1 + damping)`. EM crawls where experts are
    alike. Where clients also send the information I_m that is missing, the step is Newton's on the likelihood itself,
    whose information is `I_c - I_m` (Louis, JRSS B 44(2), 1982): in coordinates where I_c is the identity, along each
    eigenvector by `gradient / (|eigenvalue| + damping)`, so that a saddle is left and not sought. A proposal that loses
    is taken back and the damping raised, which ends in a short step up the gradient.

    Parameters stay within `bound`, as the theory has them in a compact set: where the gradient leads out of it they
    rest, and a step that would lead out ends on it. A start outside is moved to it first.

    Attributes:
        point: the accepted parameters.
        sums: of all samples there; `None`: none are known yet, the first answer is accepted.
        damping: above 0.
        bound: largest absolute value of a free parameter.
        gained: by how much the last accepted proposal raised the log-likelihood, in nats.
    """

    point: LogisticMixture
    sums: AscentSums | None = None
    damping: float = 1e-3
    bound: float = float("inf")
    gained: float = float("inf")

    def proposal(self) -> LogisticMixture:
        """Returns the point to ask the clients about."""
        here_P = self.point.free_P()
        if self.sums is None:
            return self.point.moved(np.clip(here_P, -self.bound, self.bound) - here_P)
        gradient_P = self.sums.gradient_P()
        edge_P = np.abs(here_P) >= self.bound
        moves_P = ~edge_P | (here_P * gradient_P < 0)
        step_P = direction(self.sums, self.damping, moves_P)
        while (out_P := edge_P & moves_P & (here_P * step_P > 0)).any():  # without them the others' way is another
            moves_P &= ~out_P
            step_P = direction(self.sums, self.damping, moves_P)
        return self.point.moved(np.clip(here_P + step_P, -self.bound, self.bound) - here_P)

    def heard(self, proposal: LogisticMixture, sums: AscentSums) -> Ascent:
        """Returns where the server stands once the clients' sums at its proposal are there."""
        if self.sums is None:
            return replace(self, point=proposal, sums=sums)
        gain = sums.log_likelihood - self.sums.log_likelihood
        if gain < 0:
            return replace(self, damping=self.damping * 4)
        return replace(self, point=proposal, sums=sums, damping=max(self.damping / 4, 1e-9), gained=gain)

    def is_done(self, tolerance: float) -> bool:
        """Returns whether the last gain, or the length of a step that only loses, is too small to go on."""
        return self.gained < tolerance or self.damping > MOST_DAMPING


def direction(sums: AscentSums, damping: float, moves_P: NDArray[np.bool_]) -> Floats:
    """Returns the step of the parameters that move, 0 for the others."""
    found_P = np.zeros(len(moves_P))
    gradient_Q, complete_QQ = sums.gradient_P()[moves_P], sums.complete_PP()[np.ix_(moves_P, moves_P)]
    if not len(gradient_Q):
        return found_P
    complete_QQ += RIDGE * max(float(np.trace(complete_QQ)), 1e-300) * np.eye(len(gradient_Q))
    if sums.missing_PP is None:
        found_P[moves_P] = np.linalg.solve(complete_QQ, gradient_Q) / (1 + damping)
        return found_P
    inverse_QQ = np.linalg.inv(np.linalg.cholesky(complete_QQ))
    observed_QQ = np.eye(len(gradient_Q)) - inverse_QQ @ sums.missing_PP[np.ix_(moves_P, moves_P)] @ inverse_QQ.T
    values_Q, vectors_QQ = np.linalg.eigh(observed_QQ)
    along_Q = vectors_QQ.T @ (inverse_QQ @ gradient_Q) / (np.abs(values_Q) + damping)
    found_P[moves_P] = inverse_QQ.T @ (vectors_QQ @ along_Q)
    return found_P


def climb(
    start: LogisticMixture,
    ask: Callable[[LogisticMixture], AscentSums],
    *,
    bound: float = float("inf"),
    max_rounds: int = 500,
    tolerance: float = 1e-8,
) -> Ascent:
    """Returns where a server ends that goes up from `start`.

    Args:
        start: where to begin; copies of one expert, alike in all, stay alike.
        ask: the clients: parameters -> their sums there, added up.
        bound: largest absolute value of a free parameter.
        max_rounds: bound on the messages.
        tolerance: gain of log-likelihood, in nats over all samples, below which to stop.
    """
    ascent = Ascent(start, bound=bound)
    for _ in range(max_rounds):
        proposal = ascent.proposal()
        ascent = ascent.heard(proposal, ask(proposal))
        if ascent.is_done(tolerance):
            break
    return ascent
