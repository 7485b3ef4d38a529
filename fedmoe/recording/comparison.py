"""Several runs side by side: each method's accuracy on unseen clients, mean and standard deviation over seeds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fedmoe.errors import RunFolderError
from fedmoe.recording.run_folder import RunFolder, open_run_folder
from fedmoe.recording.wording import method_title, variant_title
from fedmoe.settings import to_flat

__all__ = ["COLD", "MEASURES", "Row", "compare_runs", "groups_of", "joined"]

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
        return self.method.removesuffix(_bracketed(self.settings))


def compare_runs(paths: Sequence[Path]) -> list[Row]:
    """Returns the rows of all runs; runs of equal settings but other seeds are put together.

    Runs that deal data out in different ways may stand side by side, each with its settings in its title.

    What is the same in all groups of runs (the common expert, an equal baseline) stands there once, with the seeds of
    all of them.

    Raises:
        RunFolderError: a folder is no finished run, two runs of equal settings and seed differ in accuracy, or runs of
            one seed and of equal settings for data and clients differ in partition.
    """
    tagged = [(tag, row) for tag, members in _groups(paths) for row in _rows_of(members)]
    same: dict[tuple[str, str], list[Row]] = {}
    for _, row in tagged:
        same.setdefault((row.method, row.prediction), []).append(row)
    shared = {key: _shared(members) for key, members in same.items()}
    several = {method for (method, _), row in shared.items() if row is None}  # not the same in all groups
    rows: dict[tuple[str, str], Row] = {}
    for tag, row in tagged:
        whole = None if tag and (row.is_main or row.method in several) else shared[row.method, row.prediction]
        titled = whole or replace(row, method=row.method + _bracketed(tag), settings=tag)
        rows.setdefault((titled.method, titled.prediction), titled)
    return list(rows.values())


def joined(told: Sequence[Mapping[int, Any]], figures: Callable[[Any], Any] = lambda own: own) -> dict[int, Any] | None:
    """Returns what several groups of runs tell, seed by seed, if it is the same; `None` if nothing says that it is.

    It is the same where groups agree on all seeds that they share, and shared seeds lead from each group to all others.

    Args:
        told: what each group tells, by seed; where several tell of a seed, the earlier one counts.
        figures: of what is told of a seed, that which has to be the same.

    >>> joined([{0: "a", 1: "b"}, {2: "c", 3: "d"}, {1: "b", 2: "c"}])
    {0: 'a', 1: 'b', 2: 'c', 3: 'd'}
    >>> joined([{0: "a"}, {1: "b"}]), joined([{0: "a"}, {0: "b"}])
    (None, None)
    """
    whole, rest = dict(told[0]), list(told[1:])
    while rest:
        own = next((own for own in rest if set(own) & set(whole)), None)
        if own is None or any(figures(own[seed]) != figures(whole[seed]) for seed in set(own) & set(whole)):
            return None
        rest.remove(own)
        whole = {**own, **whole}
    return dict(sorted(whole.items()))


def groups_of(paths: Sequence[Path]) -> list[tuple[str, list[Path]]]:
    """Returns runs of equal settings but other seeds together, with the settings in which they differ from the others.

    Raises:
        RunFolderError: as `compare_runs` does.
    """
    return [(", ".join(tag), [run["path"] for run in members]) for tag, members in _groups(paths)]


def _groups(paths: Sequence[Path]) -> list[tuple[tuple[str, ...], list[dict[str, Any]]]]:
    runs = [_read(open_run_folder(path)) for path in paths]
    _check_partitions(runs)
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for run in runs:
        groups.setdefault(tuple(sorted(run["settings"].items())), []).append(run)
    differing = _differing_keys([dict(key) for key in groups])
    in_order = [_each_seed_once(members) for members in groups.values()]
    without = [name for name in differing if name != "strategy.name"]  # which the method's title tells, if it tells all
    titles = {(own[0]["summary"]["strategy"], _tag(key, without)) for key, own in zip(groups, in_order, strict=True)}
    told = without if len(titles) == len(groups) else differing
    return [(_tag(key, told), members) for key, members in zip(groups, in_order, strict=True)]


def _each_seed_once(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns runs of equal settings by seed; of two that tell the same, as two sweeps may both have run it, the first.

    Raises:
        RunFolderError: two runs of a seed differ in accuracy.
    """
    first: dict[int, dict[str, Any]] = {}
    for run in runs:
        other = first.setdefault(int(run["summary"]["seed"]), run)
        if other["summary"]["methods"] != run["summary"]["methods"]:
            raise RunFolderError(
                f"each run must be there once, got two of seed {run['summary']['seed']} and equal settings that differ "
                f"in accuracy: '{other['path']}' and '{run['path']}'; hint: leave one out"
            )
    return [first[seed] for seed in sorted(first)]


def _tag(settings: tuple[Any, ...], names: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{name}={dict(settings).get(name)}" for name in names)


def _bracketed(settings: Sequence[str]) -> str:
    return f" [{', '.join(settings)}]" if settings else ""


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


def _shared(rows: Sequence[Row]) -> Row | None:
    """Returns a method's row with the seeds of all groups; `None` where their figures, but for times, differ."""
    told = []
    for row in rows:
        measures = row.measures or ({},) * len(row.seeds)
        by_seed = zip(row.accuracies, row.worst, row.traffic, row.seconds, measures, strict=True)
        told.append(dict(zip(row.seeds, by_seed, strict=True)))
    whole = joined(told, figures=lambda own: own[:3])
    if whole is None or len({row.is_main for row in rows}) > 1:
        return None
    accuracies, worst, traffic, seconds, measured = zip(*whole.values(), strict=True)
    return replace(
        rows[0],
        seeds=tuple(whole),
        accuracies=accuracies,
        worst=worst,
        traffic=traffic,
        seconds=seconds,
        measures=measured,
    )


def _differing_keys(groups: Sequence[dict[str, Any]]) -> list[str]:
    keys = sorted({key for group in groups for key in group})
    return [key for key in keys if len({repr(group.get(key)) for group in groups}) > 1]


def _rows_of(members: Sequence[dict[str, Any]]) -> list[Row]:
    summaries = [run["summary"] for run in members]
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
