"""The map's rows: each method by its best way to predict in a regime, paired by seed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.regime_cells import GUARDED, OURS, WAYS, Cell, is_way
from benchmarks.regime_grid import METHODS, REGIMES
from fedmoe.errors import DataError

__all__ = ["Accuracies", "Row", "best_other", "guests_of", "summary_rows", "told_cells"]

# The others take whichever of their ways is the best in a regime, FedJETs from either of its two starts; ours has one.
OUR_WAY = "zero_shot_guarded"
Accuracies = NDArray[np.float64]


@dataclass(frozen=True)
class Row:
    """A regime's figures.

    Attributes:
        regime: its name.
        seeds: that are whole.
        accuracies: method -> accuracy of each seed, under the method's best prediction in this regime; guests after the
            map's own methods.
        guarded: the same where all methods may predict with guarded correction; empty: not all of them were asked to.
        groups: found, by seed.
        megabytes: method -> sent in a run, down, up and once, mean over seeds.
    """

    regime: str
    seeds: tuple[int, ...]
    accuracies: dict[str, Accuracies]
    guarded: dict[str, Accuracies]
    groups: tuple[int, ...]
    megabytes: dict[str, float]

    @property
    def rival(self) -> str:
        """Returns the best of the other methods, by its mean."""
        return best_other(self.accuracies)

    @property
    def lead(self) -> Accuracies:
        """Returns by how much ours stands above the best of the others, a seed each."""
        lead: Accuracies = self.accuracies[OURS] - self.accuracies[self.rival]
        return lead


def best_other(accuracies: Mapping[str, Accuracies], than: str = OURS) -> str:
    """Returns the best of the map's own methods but one, by its mean."""
    return max((method for method in METHODS if method != than), key=lambda method: float(accuracies[method].mean()))


def guests_of(cells: Sequence[Cell]) -> list[str]:
    """Returns the methods that are not the map's own, as they come."""
    return [method for method in dict.fromkeys(cell.method for cell in cells) if method not in METHODS]


def summary_rows(cells: Sequence[Cell]) -> list[Row]:
    """Returns a row a regime, in the map's order."""
    rows = []
    for regime in REGIMES:
        own = [cell for cell in cells if cell.regime == regime]
        seeds = sorted({cell.seed for cell in own})
        if not seeds:
            continue
        best = {method: best_way(own, method, seeds, (OUR_WAY,) if method == OURS else WAYS) for method in METHODS}
        told = {(cell.method, cell.seed) for cell in own if is_way(cell.prediction, GUARDED)}
        asked = all((method, seed) in told for method in METHODS for seed in seeds)
        ways = (*WAYS, *GUARDED)
        guarded = {method: best_way(own, method, seeds, ways) for method in METHODS} if asked else {}
        groups = tuple(next(c.groups for c in own if c.seed == s and c.method == OURS) for s in seeds)
        guests = [guest for guest in guests_of(own) if {c.seed for c in own if c.method == guest} == set(seeds)]
        best |= {guest: best_way(own, guest, seeds, WAYS) for guest in guests}
        sent = {m: float(np.mean([cell.megabytes for cell in own if cell.method == m])) for m in best}
        rows.append(Row(regime, tuple(seeds), best, guarded and {**guarded, OURS: best[OURS]}, groups, sent))
    return rows


def best_way(cells: Sequence[Cell], method: str, seeds: Sequence[int], ways: Sequence[str]) -> Accuracies:
    """Returns the accuracies of each seed by the method's way to predict that is the best by its mean.

    Raises:
        DataError: no such way has been told for all seeds.
    """
    found: dict[str, dict[int, float]] = {}
    for cell in cells:
        if cell.method == method and is_way(cell.prediction, ways):
            found.setdefault(cell.prediction, {})[cell.seed] = cell.accuracy
    whole = [np.array([own[seed] for seed in seeds]) for own in found.values() if set(own) == set(seeds)]
    if not whole:
        raise DataError(f"{cells[0].regime} must have {method} by one of {', '.join(ways)} for all seeds, got {found}")
    return max(whole, key=lambda own: float(own.mean()))


def told_cells(cells: Sequence[Cell]) -> list[Cell]:
    """Returns the cells of those (regime, seed) that hold every method of the map, ours by its way."""
    ways: dict[tuple[str, int], set[str]] = {}
    for cell in cells:
        if is_way(cell.prediction, (OUR_WAY,) if cell.method == OURS else WAYS):
            ways.setdefault((cell.regime, cell.seed), set()).add(cell.method)
    return [cell for cell in cells if ways.get((cell.regime, cell.seed), set()) >= set(METHODS)]
