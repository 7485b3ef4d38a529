"""Federated expectation maximisation of a top-K sparse mixture: the server's steps, from sums.

Which experts are chosen jumps with the gate, so that Newton's step of the M-step may lose likelihood; and with K = 1
the weights are constant and there is no such step at all. The server therefore asks the clients for the log-likelihood
of a few gates and keeps the best, or the old one: what is accepted never falls. A round is two messages each way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from fedmoe.federation.logistic_sums import Floats
from fedmoe.federation.top_k_mixture import TopKMixture, TopKSums

__all__ = ["Search", "climb_top_k"]

STEPS = (1.0, 0.25)  # parts of Newton's step that are tried
FIRST_MOVE, LEAST_MOVE = 0.5, 1e-7  # of one parameter of the gate
RIDGE = 1e-9


class Search:
    """Which gates to ask about: parts of Newton's step, and a move of one parameter to and fro, each in its turn.

    A move that wins is doubled for the next time, one that loses is halved, each parameter for itself.
    """

    def __init__(self, num_free: int, bound: float = float("inf")) -> None:
        self.move_P, self.turn, self.bound = np.full(num_free, FIRST_MOVE), 0, bound

    def candidates(self, gate_MG: Floats, sums: TopKSums) -> Sequence[Floats]:
        """Returns the gates to ask about, the old one first."""
        if not len(self.move_P):
            return [gate_MG]
        free = sums.gate.information_SFSF[:-1, :, :-1, :].reshape(len(self.move_P), -1)
        ridge_PP = RIDGE * (1 + float(np.trace(free))) * np.eye(len(self.move_P))
        newton_P = np.asarray(np.linalg.solve(free + ridge_PP, sums.gate.gradient_SF[:-1].ravel()), dtype=np.float64)
        one_P = np.zeros(len(self.move_P))
        one_P[self.turn] = self.move_P[self.turn]
        return [gate_MG] + [
            self._moved(gate_MG, by_P) for by_P in (*(part * newton_P for part in STEPS), one_P, -one_P)
        ]

    def heard(self, best: int) -> None:
        """Takes note of which candidate was the best."""
        if len(self.move_P):
            self.move_P[self.turn] *= 2.0 if best > len(STEPS) else 0.5
            self.turn = (self.turn + 1) % len(self.move_P)

    def is_done(self) -> bool:
        """Returns whether no parameter has a move left that is worth the asking."""
        return bool((self.move_P < LEAST_MOVE).all())

    def _moved(self, gate_MG: Floats, by_P: Floats) -> Floats:
        moved_MG = gate_MG.copy()
        moved_MG[:-1] += by_P.reshape(moved_MG[:-1].shape)
        return moved_MG.clip(-self.bound, self.bound)


def climb_top_k(
    start: TopKMixture,
    ask: Callable[[TopKMixture], TopKSums],
    likelihoods: Callable[[TopKMixture, Sequence[Floats]], Sequence[float]],
    *,
    max_rounds: int = 500,
    tolerance: float = 1e-6,
    fit_gate: bool = True,
    bound: float = float("inf"),
) -> tuple[TopKMixture, Sequence[float]]:
    """Returns where a server ends that goes up from `start`, and the log-likelihood of every round.

    Args:
        start: where to begin; near the truth, for the likelihood has many summits.
        ask: the clients: parameters -> their sums there, added up.
        likelihoods: the clients: experts, gates -> the log-likelihood with each gate, added up.
        max_rounds: bound on the rounds.
        tolerance: gain in nats of a round below which, once the gate stands still, to stop.
        fit_gate: whether the gate moves.
        bound: largest absolute value of a parameter of the gate.
    """
    mixture, search = start, Search(start.gate_MG[:-1].size if fit_gate else 0, bound)
    told = [-np.inf]
    for _ in range(max_rounds):
        sums = ask(mixture)
        told.append(sums.log_likelihood)
        if told[-1] - told[-2] < tolerance and search.is_done():
            break
        gates = search.candidates(mixture.gate_MG, sums)
        mixture = sums.fitted(mixture)
        best = int(np.argmax(likelihoods(mixture, gates))) if len(gates) > 1 else 0
        search.heard(best)
        mixture = mixture.with_gate(gates[best])
    return mixture, told[1:]
