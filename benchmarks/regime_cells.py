"""The map's figures: a cell a regime, seed, method and way to predict, and the file that keeps them."""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.regime_grid import Part
from fedmoe.errors import DataError

__all__ = ["GUARDED", "OURS", "WAYS", "Cell", "cells_of", "is_way", "read_csv", "write_csv"]

WAYS = ("plain", "em", "zero_shot", "zero_shot_em", "mixture", "mixture_em")
GUARDED = ("guarded", "zero_shot_guarded", "mixture_guarded")
OURS = "fedprints"


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


def is_way(prediction: str, ways: Sequence[str]) -> bool:
    """Returns whether a cell predicts in one of these ways, whatever its experts started from."""
    return prediction.split(" ", 1)[0] in ways


COLUMNS = ("regime", "seed", "method", "prediction", "accuracy", "megabytes", "groups", "commit")


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
