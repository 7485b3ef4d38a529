"""Several runs side by side: each method's accuracy on unseen clients, mean and standard deviation over seeds."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

from fedmoe.errors import RunFolderError
from fedmoe.recording.interval import interval
from fedmoe.recording.run_folder import RunFolder, open_run_folder
from fedmoe.recording.wording import bytes_text, method_title, variant_title
from fedmoe.settings import to_flat

__all__ = [
    "Difference",
    "Row",
    "compare_runs",
    "comparison_table",
    "difference",
    "groups_of",
    "reference_of",
    "to_csv",
    "to_markdown",
]

NOT_COMPARED = {"seed", "output-dir", "resume", "simulation", "evaluate.baselines", "data.root", "train.workers"}
DEALT_BY = ("data.", "clients.", "experts.num")  # what settings decide who holds what
COLD = "cold_start_"  # of a measure: accuracy with so many samples at a time
MEASURES = (
    "std",
    "specialisation",
    "routing_entropy",
    "dispatch_entropy",
    "routing_stability",
    "dead_experts",
    "untrained_experts",
    "personalise_seconds",
)
COLUMNS = ("method", "prediction", "accuracy", "worst decile", "difference", "seeds", "traffic", "seconds")


@dataclass(frozen=True)
class Row:
    """One method under one prediction.

    Attributes:
        method: its title, with the settings in which its runs differ from the others.
        prediction: how samples are predicted.
        seeds: the seeds, ascending.
        accuracies: mean accuracy over unseen clients, a seed each, in [0, 1].
        worst: mean accuracy of the worst tenth of the unseen clients, likewise.
        traffic: bytes of a whole run (once, down and up), likewise; 0 for what sends nothing.
        seconds: of a round (median), likewise; 0 where nothing is trained or it was not told.
        is_main: whether it is what the runs are about, rather than a baseline.
        measures: what else is told of the method, a table a seed, by the names in `MEASURES` and, for each number of
            samples, `cold_start_10`; some are timings, so equal rows may differ in them.
    """

    method: str
    prediction: str
    seeds: tuple[int, ...]
    accuracies: tuple[float, ...]
    worst: tuple[float, ...]
    traffic: tuple[float, ...]
    seconds: tuple[float, ...]
    is_main: bool
    measures: tuple[Mapping[str, float | None], ...] = field(default=(), compare=False)


@dataclass(frozen=True)
class Difference:
    """A row's accuracy minus the reference's, seed by seed.

    Attributes:
        mean: over the seeds that both have, in [-1, 1].
        low: lower end of the 95 % confidence interval of the mean (Student's t over seeds); `None` for a single seed.
        high: its upper end.
    """

    mean: float
    low: float | None
    high: float | None


def compare_runs(paths: Sequence[Path]) -> list[Row]:
    """Returns the rows of all runs; runs of equal settings but other seeds are put together.

    Runs that deal data out in different ways may stand side by side, each with its settings in its title.

    What is the same in all groups of runs (the common expert, an equal baseline) stands there once.

    Raises:
        RunFolderError: a folder is no finished run, a run is there twice, or runs of one seed and of equal settings for
            data and clients differ in partition.
    """
    tagged = [(tag, row) for tag, members in _groups(paths) for row in _rows_of(members)]
    first: dict[tuple[str, str], Row] = {}
    several = set()  # methods whose figures are not the same in all groups
    for _, row in tagged:
        same = first.setdefault((row.method, row.prediction), row)
        if replace(same, seconds=row.seconds) != row:
            several.add(row.method)
    rows: dict[tuple[str, str], Row] = {}
    for tag, row in tagged:
        own = tag and (row.is_main or row.method in several)
        titled = replace(row, method=f"{row.method} [{tag}]") if own else row
        rows.setdefault((titled.method, titled.prediction), titled)
    return list(rows.values())


def groups_of(paths: Sequence[Path]) -> list[tuple[str, list[Path]]]:
    """Returns runs of equal settings but other seeds together, with the settings in which they differ from the others.

    Raises:
        RunFolderError: as `compare_runs` does.
    """
    return [(tag, [run["path"] for run in members]) for tag, members in _groups(paths)]


def reference_of(rows: Sequence[Row], against: str) -> Row:
    """Returns the row that the others are held against: the first one whose title begins so, or the first of all.

    Args:
        rows: at least one.
        against: the beginning of `method, prediction`, capital letters or not; empty: the first row.

    Raises:
        RunFolderError: no row's title begins so.
    """
    for row in rows:
        if f"{row.method}, {row.prediction}".lower().startswith(against.lower()):
            return row
    known = ", ".join(dict.fromkeys(row.method for row in rows))
    raise RunFolderError(f"--against must be the beginning of a row's title, got '{against}'; hint: one of {known}")


def difference(row: Row, reference: Row) -> Difference | None:
    """Returns how far the row stands above the reference, paired by seed; `None` where they share no seed."""
    pairs = dict(zip(reference.seeds, reference.accuracies, strict=True))
    gaps = np.array([own - pairs[seed] for seed, own in zip(row.seeds, row.accuracies, strict=True) if seed in pairs])
    if not len(gaps):
        return None
    if len(gaps) == 1:
        return Difference(float(gaps[0]), None, None)
    mean, half = float(gaps.mean()), interval(gaps)
    return Difference(mean, mean - half, mean + half)


def comparison_table(rows: Sequence[Row], against: str = "") -> Table:
    """Returns the rows as a table for the terminal; differences are to the row that `reference_of` finds."""
    reference = reference_of(rows, against)
    caption = (
        f"%, mean ± std over seeds; worst decile: of the unseen clients; difference: to {reference.method}, "
        f"{reference.prediction}, paired by seed, with its 95 % interval; seconds: of a round"
    )
    table = Table(title="accuracy on unseen clients", title_style="bold", caption=Text(caption), caption_justify="left")
    for column in COLUMNS:
        table.add_column(column, justify="left" if column in ("method", "prediction") else "right", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in _cells(row, reference)))  # Text: a tag in [brackets] is no markup
    return table


def to_markdown(rows: Sequence[Row], against: str = "") -> str:
    """Returns the rows as a Markdown table."""
    reference = reference_of(rows, against)
    titles = {"accuracy": "accuracy, %", "difference": f"to {reference.method}, {reference.prediction}"}
    head = "| " + " | ".join(titles.get(column, column) for column in COLUMNS) + " |"
    lines = [head, "|---|---|" + "--:|" * (len(COLUMNS) - 2)]
    return "\n".join([*lines, *("| " + " | ".join(_cells(row, reference)) + " |" for row in rows)])


def to_csv(rows: Sequence[Row]) -> str:
    """Returns a line for each row and seed; accuracies in [0, 1], experts counted; empty where a method has none.

    `std_over_clients` is that of the accuracies of one seed's unseen clients.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    head = ("method", "prediction", "seed", "accuracy", "worst_decile", "traffic_bytes", "round_seconds")
    told_of = {name for row in rows for told in row.measures for name in told if name.startswith(COLD)}
    names = (*MEASURES, *sorted(told_of, key=lambda name: int(name.removeprefix(COLD))))
    writer.writerow((*head, *("std_over_clients" if name == "std" else name for name in names)))
    for row in rows:
        measures = row.measures or ({},) * len(row.seeds)
        by_seed = zip(row.seeds, row.accuracies, row.worst, row.traffic, row.seconds, measures, strict=True)
        for seed, accuracy, worst, traffic, seconds, told in by_seed:
            own = (row.method, row.prediction, seed, accuracy, worst, traffic or None, seconds or None)
            writer.writerow((*own, *(told.get(name) for name in names)))
    return out.getvalue()


def _groups(paths: Sequence[Path]) -> list[tuple[str, list[dict[str, Any]]]]:
    runs = [_read(open_run_folder(path)) for path in paths]
    _check_partitions(runs)
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for run in runs:
        groups.setdefault(tuple(sorted(run["settings"].items())), []).append(run)
    differing = _differing_keys([dict(key) for key in groups])
    in_order = [sorted(members, key=lambda run: int(run["summary"]["seed"])) for members in groups.values()]
    without = [name for name in differing if name != "strategy.name"]  # which the method's title tells, if it tells all
    titles = {(own[0]["summary"]["strategy"], _tag(key, without)) for key, own in zip(groups, in_order, strict=True)}
    told = without if len(titles) == len(groups) else differing
    return [(_tag(key, told), members) for key, members in zip(groups, in_order, strict=True)]


def _tag(settings: tuple[Any, ...], names: Sequence[str]) -> str:
    return ", ".join(f"{name}={dict(settings).get(name)}" for name in names)


def _cells(row: Row, reference: Row) -> tuple[str, ...]:
    values = 100 * np.asarray(row.accuracies)
    spread = f" ± {values.std(ddof=1):.1f}" if len(values) > 1 else ""
    told = None if row == reference else difference(row, reference)
    gap = "-" if told is None else f"{100 * told.mean:+.1f}"
    if told is not None and told.low is not None and told.high is not None:
        gap += f" [{100 * told.low:+.1f}, {100 * told.high:+.1f}]"
    return (
        row.method,
        row.prediction,
        f"{values.mean():.1f}{spread}",
        f"{100 * np.mean(row.worst):.1f}",
        gap,
        str(len(values)),
        bytes_text(float(np.mean(row.traffic))) if any(row.traffic) else "-",
        f"{np.mean(row.seconds):.3g}" if any(row.seconds) else "-",
    )


def _read(folder: RunFolder) -> dict[str, Any]:
    summary = folder.read_json("summary.json")
    if summary is None:
        raise RunFolderError(f"a run must be finished to be compared, but '{folder.path}' has no summary.json")
    flat = to_flat(folder.read_settings())
    settings = {key: value for key, value in flat.items() if key not in NOT_COMPARED}
    return {"summary": summary, "settings": settings, "path": folder.path}


def _check_partitions(runs: Sequence[dict[str, Any]]) -> None:
    seen: dict[tuple[Any, ...], tuple[str, Path]] = {}
    for run in runs:
        dealt = sorted((key, value) for key, value in run["settings"].items() if key.startswith(DEALT_BY))
        seed, digest = run["summary"]["seed"], run["summary"]["partition"]["hash"]
        other = seen.setdefault((seed, *dealt), (digest, run["path"]))
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
    told: dict[tuple[str, str, str], list[dict[str, Any]]] = {}  # a run may lack a baseline that another one has
    for summary in summaries:
        for part in ("methods", "seen"):
            for method, variants in summary.get(part, {}).items():
                for variant in variants:
                    told.setdefault((method, part, variant), []).append(summary)
    order = {method: number for number, (method, _, _) in enumerate(told)}
    keys = sorted(told, key=lambda key: (order[key[0]], key[1]))
    main = summaries[0]["strategy"]
    return [_row(*key, told[key], dense=(*key[:2], "mixture") not in told, is_main=key[0] == main) for key in keys]


def _row(
    method: str, part: str, variant: str, summaries: Sequence[dict[str, Any]], *, dense: bool, is_main: bool
) -> Row:
    figures = [summary[part][method][variant] for summary in summaries]
    return Row(
        method=method_title(method),
        prediction=variant_title(variant, dense) + (" (seen clients)" if part == "seen" else ""),
        seeds=tuple(summary["seed"] for summary in summaries),
        accuracies=tuple(own["mean"] for own in figures),
        worst=tuple(own["worst_decile"] for own in figures),
        traffic=tuple(sum(s["bytes"]["by_method"].get(method, {}).values()) for s in summaries),
        seconds=tuple(s["seconds"].get("by_method", {}).get(method, 0.0) for s in summaries),
        is_main=is_main,
        measures=tuple(_measures(method, part, variant, summary) for summary in summaries),
    )


def _measures(method: str, part: str, variant: str, summary: Mapping[str, Any]) -> dict[str, float | None]:
    """Returns what else a run tells of a method; routing and its time are those of unseen clients."""
    told: dict[str, float | None] = {"std": summary[part][method][variant].get("std")}
    if part == "seen":
        return told
    for name, value in summary.get("routing", {}).get(method, {}).items():
        told[name] = len(value) if isinstance(value, list) else value
    for size, figures in summary.get("cold_start", {}).get(method, {}).items():
        told |= {f"{COLD}{size}": figures[variant]["mean"]} if variant in figures else {}
    return told | {"personalise_seconds": summary["seconds"].get("personalise", {}).get(method)}
