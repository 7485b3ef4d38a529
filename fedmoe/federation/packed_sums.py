"""The sums of expectation maximisation as numbers to send: of what is symmetric, one half.

Shapes: P free parameters, S numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedmoe.federation.logistic_mixture import MixtureSums
from fedmoe.federation.logistic_sums import Floats

__all__ = ["PackedSums", "SumsShape", "packed"]


@dataclass(frozen=True)
class SumsShape:
    """What the numbers are of.

    Attributes:
        blocks: the free parameters of the gate, then of each expert; EM's surrogate has a block of information each.
        missing: whether the missing information (Louis 1982) follows.
    """

    blocks: tuple[int, ...]
    missing: bool

    @classmethod
    def of(cls, num_experts: int, classes: int, features: int, gate_features: int, missing: bool) -> SumsShape:
        """Returns the shape for a mixture with as many features of its experts and gate, the constant one included."""
        return cls(((num_experts - 1) * gate_features, *([(classes - 1) * features] * num_experts)), missing)

    @property
    def parameters(self) -> int:
        """Returns P."""
        return sum(self.blocks)

    @property
    def numbers(self) -> int:
        """Returns S: the log-likelihood, the gradient, a triangle of each block, and of the missing information."""
        squares = (*self.blocks, *([self.parameters] if self.missing else []))
        return 1 + self.parameters + sum(size * (size + 1) // 2 for size in squares)


def packed(sums: MixtureSums) -> Floats:
    """Returns a client's sums as numbers, means over its samples, of which the means over clients are the whole's."""
    blocks = [own.information_SFSF[:-1, :, :-1, :] for own in (sums.gate, *sums.experts)]
    squares = [own.reshape(own.shape[0] * own.shape[1], -1) for own in blocks]
    squares += [] if sums.missing_PP is None else [sums.missing_PP]
    halves = [own[np.triu_indices(len(own))] for own in squares]
    numbers_S: Floats = np.concatenate([[sums.log_likelihood], sums.gradient_P(), *halves]) / sums.weight
    return numbers_S


@dataclass(frozen=True)
class PackedSums:
    """Means over all samples, as `Ascent` reads them, with a ridge `- ridge / 2 |point|^2` added to the likelihood.

    Attributes:
        numbers_S: as `packed` gives them.
        shape: of what.
        point_P: the free parameters at which they were taken.
        ridge: at least 0.
    """

    numbers_S: Floats
    shape: SumsShape
    point_P: Floats
    ridge: float = 0.0

    @property
    def log_likelihood(self) -> float:
        """Returns it in nats a sample, less the ridge's share."""
        return float(self.numbers_S[0]) - self.ridge / 2 * float(self.point_P @ self.point_P)

    def gradient_P(self) -> Floats:
        """Returns its gradient."""
        return self.numbers_S[1 : 1 + self.shape.parameters] - self.ridge * self.point_P

    def complete_PP(self) -> Floats:
        """Returns the information of EM's surrogate."""
        whole_PP, first = np.zeros((self.shape.parameters, self.shape.parameters)), 0
        for size, square in zip(self.shape.blocks, self._squares(), strict=False):
            whole_PP[first : first + size, first : first + size] = square
            first += size
        return whole_PP + self.ridge * np.eye(self.shape.parameters)

    @property
    def missing_PP(self) -> Floats | None:
        """Returns the missing information, or `None`."""
        return self._squares()[-1] if self.shape.missing else None

    def _squares(self) -> list[Floats]:
        first, squares = 1 + self.shape.parameters, []
        for size in (*self.shape.blocks, *([self.shape.parameters] if self.shape.missing else [])):
            square = np.zeros((size, size))
            half = self.numbers_S[first : first + size * (size + 1) // 2]
            upper = np.triu_indices(size)
            square[upper] = half
            square.T[upper] = half
            squares.append(square)
            first += half.size
        return squares
