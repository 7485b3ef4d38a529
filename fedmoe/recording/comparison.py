"""Several runs side by side: each method's accuracy on unseen clients, mean and standard deviation over seeds."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

from fedmoe.errors import RunFolderError
from fedmoe.recording.run_folder import RunFolder, open_run_folder
from fedmoe.recording.wording import bytes_text, method_title, variant_title
from fedmoe.settings import to_flat

__all__ = ["Row", "compare_runs", "comparison_table", "to_markdown"]

NOT_COMPARED = {"seed", "output-dir", "resume", "simulation", "evaluate.baselines", "data.root"}


@dataclass(frozen=True)
class Row:
    """One method under one prediction.

    Attributes:
        method: its title, with the settings in which its runs differ from the others.
        prediction: how samples are predicted.
        seeds: the seeds, ascending.
        accuracies: mean accuracy over unseen clients, a seed each, in [0, 1].
        traffic: bytes of a whole run (once, down and up), mean over seeds; 0 for what sends nothing.
        is_main: whether it is what the runs are about, rather than a baseline.
    """

    method: str
    prediction: str
    seeds: tuple[int, ...]
    accuracies: tuple[float, ...]
    traffic: float
    is_main: bool


def compare_runs(paths: Sequence[Path]) -> list[Row]:
    """Returns the rows of all runs; runs of equal settings but other seeds are put together.

    What is the same in two groups of runs (the common expert, an equal baseline) stands there once.

    Raises:
        RunFolderError: a folder is no finished run, a run is there twice, or runs of one seed differ in partition.
    """
    runs = [_read(open_run_folder(path)) for path in paths]
    _check_partitions(runs)
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for run in runs:
        groups.setdefault(tuple(sorted(run["settings"].items())), []).append(run)
    differing = _differing_keys([dict(key) for key in groups])
    rows: dict[tuple[str, str], Row] = {}
    for key, members in groups.items():
        members.sort(key=lambda run: run["summary"]["seed"])
        tag = ", ".join(f"{name}={dict(key).get(name)}" for name in differing)
        for row in _rows_of(members):
            same = rows.get((row.method, row.prediction))
            if tag and (row.is_main or (same is not None and same != row)):
                row = replace(row, method=f"{row.method} [{tag}]")
            rows[row.method, row.prediction] = row
    return list(rows.values())


def comparison_table(rows: Sequence[Row]) -> Table:
    """Returns the rows as a table for the terminal."""
    table = Table(title="accuracy on unseen clients, mean ± std over seeds", title_style="bold")
    for column in ("method", "prediction", "accuracy", "seeds", "traffic"):
        table.add_column(column, justify="left" if column in ("method", "prediction") else "right", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in _cells(row)))  # Text: a tag in [brackets] is no markup
    return table


def to_markdown(rows: Sequence[Row]) -> str:
    """Returns the rows as a Markdown table."""
    lines = ["| method | prediction | accuracy, % | seeds | traffic |", "|---|---|--:|--:|--:|"]
    return "\n".join([*lines, *("| " + " | ".join(_cells(row)) + " |" for row in rows)])


def _cells(row: Row) -> tuple[str, ...]:
    values = 100 * np.asarray(row.accuracies)
    spread = f" ± {values.std(ddof=1):.1f}" if len(values) > 1 else ""
    traffic = bytes_text(row.traffic) if row.traffic else "-"
    return row.method, row.prediction, f"{values.mean():.1f}{spread}", str(len(values)), traffic


def _read(folder: RunFolder) -> dict[str, Any]:
    summary = folder.read_json("summary.json")
    if summary is None:
        raise RunFolderError(f"a run must be finished to be compared, but '{folder.path}' has no summary.json")
    flat = to_flat(folder.read_settings())
    settings = {key: value for key, value in flat.items() if key not in NOT_COMPARED}
    return {"summary": summary, "settings": settings, "path": folder.path}


def _check_partitions(runs: Sequence[dict[str, Any]]) -> None:
    seen: dict[int, tuple[str, Path]] = {}
    for run in runs:
        seed, digest = run["summary"]["seed"], run["summary"]["partition"]["hash"]
        other = seen.setdefault(seed, (digest, run["path"]))
        if other[0] != digest:
            raise RunFolderError(
                f"runs of one seed must share a partition to be compared, got {other[0][:12]} in '{other[1]}' and "
                f"{digest[:12]} in '{run['path']}'"
            )


def _differing_keys(groups: Sequence[dict[str, Any]]) -> list[str]:
    keys = sorted({key for group in groups for key in group})
    return [key for key in keys if len({repr(group.get(key)) for group in groups}) > 1]


def _rows_of(members: Sequence[dict[str, Any]]) -> list[Row]:
    summaries = [run["summary"] for run in members]
    seeds = tuple(summary["seed"] for summary in summaries)
    if len(set(seeds)) < len(seeds):
        places = ", ".join(str(run["path"]) for run in members)
        raise RunFolderError(f"each run must be there once, got seeds {seeds} for the same settings: {places}")
    rows = []
    main = summaries[0]["strategy"]
    for method, variants in summaries[0]["methods"].items():
        dense = "mixture" not in variants
        for variant in variants:
            accuracies = tuple(summary["methods"][method][variant]["mean"] for summary in summaries)
            traffic = float(np.mean([sum(s["bytes"]["by_method"].get(method, {}).values()) for s in summaries]))
            rows.append(
                Row(method_title(method), variant_title(variant, dense), seeds, accuracies, traffic, method == main)
            )
    return rows
