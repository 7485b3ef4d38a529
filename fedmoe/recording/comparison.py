"""Several runs side by side: each method's accuracy on unseen clients, mean and standard deviation over seeds."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedmoe.recording.entries import Entry, put_together
from fedmoe.recording.run_groups import RunGroup, bracketed, groups_of
from fedmoe.recording.wording import method_title, notes_of, starts_apart, variant_title

__all__ = ["COLD", "MEASURES", "Row", "compare_runs", "compared_notes"]

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


@dataclass(frozen=True)
class Figures:
    """What one run tells of a method under one prediction; `Row` says of each figure what it is."""

    accuracy: float
    worst: float
    traffic: float
    seconds: float
    measures: Mapping[str, float | None]

    def without_times(self) -> tuple[float, ...]:
        """Returns what is the same whenever the same is run again."""
        return (self.accuracy, self.worst, self.traffic)


@dataclass(frozen=True)
class Row:
    """One method under one prediction.

    Attributes:
        method: its title, with the settings in which its runs differ from the others: `name [key=value, ...]`.
        prediction: how samples are predicted.
        seeds: the seeds, ascending.
        accuracies: mean accuracy over unseen clients, a seed each, in [0, 1].
        worst: mean accuracy of the worst tenth of the unseen clients, likewise.
        traffic: bytes of a whole run (once, down and up), likewise; 0 for what sends nothing.
        seconds: of a round (median), likewise; 0 where nothing is trained or it was not told.
        is_main: whether it is what the runs are about, rather than a baseline.
        settings: those settings, as `key=value`.
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
    settings: tuple[str, ...] = ()
    measures: tuple[Mapping[str, float | None], ...] = field(default=(), compare=False)

    @property
    def name(self) -> str:
        """The method's title without settings."""
        return self.method.removesuffix(bracketed(self.settings))


def compare_runs(paths: Sequence[Path]) -> list[Row]:
    """Returns the rows of all runs; runs of equal settings but other seeds are put together.

    Runs that deal data out in different ways may stand side by side, each with its settings in its title.

    What is the same in all groups of runs (the common expert, an equal baseline) stands there once, with the seeds of
    all of them. An argument of a strategy tells those rows apart alone that the strategy has a part in.

    Raises:
        RunFolderError: a folder is no finished run, two runs of equal settings and seed differ in accuracy, or runs of
            one seed and of equal settings for data and clients differ in partition.
    """
    entries = [entry for group in groups_of(paths) for entry in _entries_of(group)]
    return [_row(entry) for entry in put_together(entries, figures=Figures.without_times)]


def compared_notes(paths: Sequence[Path]) -> list[str]:
    """Returns what a reader of the rows must know: each note of the runs once, with how many runs have it if not all.

    Where methods' experts start in different ways, in whichever runs, that is the first of them.

    Raises:
        RunFolderError: as `compare_runs` does.
    """
    summaries = [summary for group in groups_of(paths) for summary in group.summaries]
    starts = [pair for summary in summaries for pair in summary.get("starts", {}).items()]
    counts = Counter(
        note
        for summary in summaries
        for note in dict.fromkeys(notes_of(summary))
        if note not in starts_apart(summary.get("starts", {}).items())
    )
    return [
        *starts_apart(starts),
        *(note if n == len(summaries) else f"{note} (in {n} of {len(summaries)} runs)" for note, n in counts.items()),
    ]


def _entries_of(group: RunGroup) -> list[Entry[Figures]]:
    told: dict[tuple[str, str, str], dict[int, Figures]] = {}  # a run may lack a baseline that another one has
    for summary in group.summaries:
        for part in ("methods", "seen"):
            for method, variants in summary.get(part, {}).items():
                for variant in variants:
                    by_seed = told.setdefault((method, part, variant), {})
                    by_seed[int(summary["seed"])] = _figures(method, part, variant, summary)
    order = {method: number for number, (method, _, _) in enumerate(told)}
    keys = sorted(told, key=lambda key: (order[key[0]], key[1]))
    return [
        Entry(
            method=method_title(method),
            part=_prediction(part, variant, dense=(method, part, "mixture") not in told),
            tag=group.tag(method),
            whole_tag=group.whole_tag(),
            is_main=method == group.main,
            by_seed=told[method, part, variant],
        )
        for method, part, variant in keys
    ]


def _prediction(part: str, variant: str, *, dense: bool) -> str:
    return variant_title(variant, dense) + (" (seen clients)" if part == "seen" else "")


def _figures(method: str, part: str, variant: str, summary: Mapping[str, Any]) -> Figures:
    told = summary[part][method][variant]
    return Figures(
        accuracy=told["mean"],
        worst=told["worst_decile"],
        traffic=sum(summary["bytes"]["by_method"].get(method, {}).values()),
        seconds=summary["seconds"].get("by_method", {}).get(method, 0.0),
        measures=_measures(method, part, variant, summary),
    )


def _row(entry: Entry[Figures]) -> Row:
    figures = list(entry.by_seed.values())
    return Row(
        method=entry.method + bracketed(entry.tag),
        prediction=entry.part,
        seeds=tuple(entry.by_seed),
        accuracies=tuple(own.accuracy for own in figures),
        worst=tuple(own.worst for own in figures),
        traffic=tuple(own.traffic for own in figures),
        seconds=tuple(own.seconds for own in figures),
        is_main=entry.is_main,
        settings=entry.tag,
        measures=tuple(own.measures for own in figures),
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
