"""The map as numbers, as a table and as a figure."""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.regime_grid import METHODS, REGIMES, Part
from fedmoe.errors import DataError
from fedmoe.recording.interval import interval

__all__ = [
    "Cell",
    "cells_of",
    "draw",
    "is_told",
    "markdown",
    "read_csv",
    "summary_rows",
    "told_interval",
    "write_csv",
]

# How the methods may predict. The others take whichever of their ways is the best in a regime, FedJETs from either of
# its two starts; ours has one.
WAYS = ("plain", "em", "zero_shot", "zero_shot_em", "mixture", "mixture_em")
GUARDED = ("guarded", "zero_shot_guarded", "mixture_guarded")
OURS, OUR_WAY = "fedprints", "zero_shot_guarded"
Accuracies = NDArray[np.float64]


@dataclass(frozen=True)
class Cell:
    """One method's accuracy on unseen clients in one regime with one seed.

    Attributes:
        prediction: how it predicts.
        accuracy: mean over unseen clients, in [0, 1].
        megabytes: that a run has sent.
        groups: groups that were found, by a method that looks for them; else 0.
        commit: of the code that ran it; empty: not known.
    """

    regime: str
    seed: int
    method: str
    prediction: str
    accuracy: float
    megabytes: float
    groups: int = 0
    commit: str = ""


def cells_of(regime: str, seed: int, runs: Sequence[tuple[Part, Path]]) -> list[Cell]:
    """Returns what the runs of a regime and a seed come to."""
    cells = []
    for part, folder in runs:
        summary = json.loads((folder / "summary.json").read_text())
        commit = json.loads((folder / "environment.json").read_text())["commit"] or ""
        names = {**part.methods, **({"common expert": "common"} if OURS in part.methods else {})}
        for strategy, method in names.items():
            sent = summary["bytes"]["by_method"].get(strategy, {})
            megabytes = (sent.get("down", 0) + sent.get("up", 0) + sent.get("once", 0)) / 1e6
            found = summary["methods"][strategy]
            groups = _groups(folder) if method == OURS else 0
            cells += [
                Cell(regime, seed, method, told_way(way, method, part), found[way]["mean"], megabytes, groups, commit)
                for way in (*WAYS, *GUARDED)
                if way in found
            ]
    return cells


def told_way(way: str, method: str, part: Part) -> str:
    """Returns how a method predicts, with where its experts start if there are two starts of it."""
    return f"{way} from {part.start}" if method.startswith("fedjets") else way


def _groups(folder: Path) -> int:
    """Returns how many experts were trained in all rounds."""
    lines = (json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines())
    return len({expert for line in lines for held in line["assignment"].values() for expert in held})


@dataclass(frozen=True)
class Row:
    """A regime's figures.

    Attributes:
        regime: its name.
        seeds: that are whole.
        accuracies: method -> accuracy of each seed, under the method's best prediction in this regime.
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


def best_other(accuracies: Mapping[str, Accuracies]) -> str:
    """Returns the best method but ours, by its mean."""
    return max((method for method in accuracies if method != OURS), key=lambda method: float(accuracies[method].mean()))


def summary_rows(cells: Sequence[Cell]) -> list[Row]:
    """Returns a row a regime, in the map's order."""
    rows = []
    for regime in REGIMES:
        own = [cell for cell in cells if cell.regime == regime]
        seeds = sorted({cell.seed for cell in own})
        if not seeds:
            continue
        best = {method: best_way(own, method, seeds, (OUR_WAY,) if method == OURS else WAYS) for method in METHODS}
        asked = {cell.method for cell in own if is_way(cell.prediction, GUARDED)} == set(METHODS)
        ways = (*WAYS, *GUARDED)
        guarded = {method: best_way(own, method, seeds, ways) for method in METHODS} if asked else {}
        groups = tuple(next(c.groups for c in own if c.seed == s and c.method == OURS) for s in seeds)
        sent = {m: float(np.mean([cell.megabytes for cell in own if cell.method == m])) for m in METHODS}
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


def is_way(prediction: str, ways: Sequence[str]) -> bool:
    """Returns whether a cell predicts in one of these ways, whatever its experts started from."""
    return prediction.split(" ", 1)[0] in ways


def texts(row: Row) -> list[str]:
    """Returns a row's cells: each method's mean and deviation in percent, the lead of ours, groups, bytes, seeds."""
    several = len(row.seeds) > 1
    means = [
        f"{100 * a.mean():.1f} ± {100 * a.std(ddof=1):.1f}" if several else f"{100 * a.mean():.1f}"
        for a in (row.accuracies[method] for method in METHODS)
    ]
    groups = sorted(set(row.groups))
    found = str(groups[0]) if len(groups) == 1 else f"{groups[0]} to {groups[-1]}"
    sent = " / ".join(f"{row.megabytes[method]:.0f}" for method in SENDERS)
    guarded = told_interval(row.guarded[OURS] - row.guarded[best_other(row.guarded)]) if row.guarded else "-"
    return [*means, told_interval(row.lead), guarded, found, sent, str(len(row.seeds))]


def told_interval(differences: Accuracies) -> str:
    """Returns the mean of paired differences in points, with its 95 % confidence interval if there are several."""
    lead, half = 100 * differences.mean(), 100 * interval(differences)
    return f"{lead:+.1f} [{lead - half:+.1f}, {lead + half:+.1f}]" if len(differences) > 1 else f"{lead:+.1f}"


SENDERS = ("fedavg", "fedjets", OURS)  # what sends anything; logit adjustment and where experts start cost no byte
HEADS = [
    *METHODS.values(),
    "FedPrints against the best other [95 %]",
    "the same, others guarded too",
    "groups found, at most M",
    "MB of FedAvg / FedJETs / FedPrints",
    "seeds",
]


def markdown(cells: Sequence[Cell]) -> str:
    """Returns the map as a Markdown table."""
    lines = ["| regime | " + " | ".join(HEADS) + " |", "|---" + "|--:" * len(HEADS) + "|"]
    lines += ["| " + " | ".join([REGIMES[row.regime].title, *texts(row)]) + " |" for row in summary_rows(cells)]
    return "\n".join(lines) + "\n"


COLUMNS = ("regime", "seed", "method", "prediction", "accuracy", "megabytes", "groups", "commit")


def is_told(cells: Sequence[Cell]) -> bool:
    """Returns whether the cells of a regime and a seed hold every method, ours by its way."""
    ways = {cell.method for cell in cells if is_way(cell.prediction, (OUR_WAY,) if cell.method == OURS else WAYS)}
    return ways == set(METHODS)


def write_csv(cells: Sequence[Cell], file: Path) -> None:
    """Writes a line a cell."""
    with file.open("w", newline="") as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(COLUMNS)
        for c in cells:
            numbers = (f"{c.accuracy:.6f}", f"{c.megabytes:.3f}", c.groups)
            writer.writerow([c.regime, c.seed, c.method, c.prediction, *numbers, c.commit])


def read_csv(file: Path) -> list[Cell]:
    """Returns what `write_csv` wrote.

    Raises:
        DataError: it has other columns.
    """
    with file.open(newline="") as lines:
        reader = csv.DictReader(lines)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise DataError(f"{file} must have the columns {', '.join(COLUMNS)}, got {reader.fieldnames}")
        return [
            Cell(
                regime=row["regime"],
                seed=int(row["seed"]),
                method=row["method"],
                prediction=row["prediction"],
                accuracy=float(row["accuracy"]),
                megabytes=float(row["megabytes"]),
                groups=int(row["groups"]),
                commit=row["commit"],
            )
            for row in reader
        ]


def draw(cells: Sequence[Cell], file: Path) -> None:
    """Draws the map: a row a regime, a column a method, coloured by the points behind the row's best."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    rows = summary_rows(cells)
    means = np.array([[100 * row.accuracies[method].mean() for method in METHODS] for row in rows])
    behind = means.max(axis=1, keepdims=True) - means
    figure, axes = plt.subplots(figsize=(9, 1.6 + 0.42 * len(rows)), layout="constrained")
    image = axes.imshow(behind, cmap="RdYlGn_r", vmin=0, vmax=15, aspect="auto", alpha=0.6)
    for y, row in enumerate(means):
        for x, mean in enumerate(row):
            best = behind[y, x] < 0.05
            axes.text(x, y, f"{mean:.1f}", ha="center", va="center", fontweight="bold" if best else "normal")
    axes.set_xticks(range(len(METHODS)), [title.replace(" + ", "\n+ ") for title in METHODS.values()])
    axes.xaxis.tick_top()
    axes.set_title("accuracy on unseen clients without labels, percent", pad=12)
    axes.set_yticks(range(len(rows)), [REGIMES[row.regime].title for row in rows])
    kinds = [REGIMES[row.regime].kind for row in rows]
    for y in range(1, len(rows)):
        if kinds[y] != kinds[y - 1]:
            axes.axhline(y - 0.5, color="black", linewidth=1.5)
    figure.colorbar(image, label="points behind the best of the row", shrink=0.6)
    figure.savefig(file, dpi=150)
    plt.close(figure)
