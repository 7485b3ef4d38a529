"""Finished runs of equal settings but other seeds, put together, and the settings that tell such groups apart."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedmoe.errors import RunFolderError
from fedmoe.recording.run_folder import open_run_folder
from fedmoe.settings import to_flat

__all__ = ["RunGroup", "bracketed", "groups_of"]

NOT_COMPARED = {"seed", "output-dir", "resume", "simulation", "evaluate.baselines", "data.root", "train.workers"}
DEALT_BY = ("data.", "clients.", "experts.num")  # what settings decide who holds what
TABLE = "strategy."  # and a strategy's name and its argument: a setting that counts where that strategy is at work


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        path: its folder.
        summary: its `summary.json`.
        settings: those that may tell it apart from others; arguments of strategies that it does not use are left out.
    """

    path: Path
    summary: Mapping[str, Any]
    settings: Mapping[str, Any]

    def uses(self, key: str, method: str | None = None) -> bool:
        """Returns whether a setting counts in this run, or for one of its methods.

        Every one does but for the arguments of strategies that are not at work; a run of an older version does not
        tell which are.
        """
        _, table, *argument = key.split(".")[:3] if key.startswith(TABLE) else ("", "")
        told: Mapping[str, Sequence[str]] | None = self.summary.get("tables")
        if not argument or told is None:
            return True
        names = told.values() if method is None else [told.get(method.replace("-", "_"), ())]
        return any(table in own for own in names)


@dataclass(frozen=True)
class RunGroup:
    """Runs of equal settings but other seeds.

    Attributes:
        runs: a run a seed, ascending.
        differing: the settings in which the groups differ.
        named: whether the strategy's name is one of those, and the titles of the methods do not tell it.
    """

    runs: tuple[Run, ...]
    differing: tuple[str, ...]
    named: bool = True

    @property
    def paths(self) -> list[Path]:
        """The run folders."""
        return [run.path for run in self.runs]

    @property
    def summaries(self) -> list[Mapping[str, Any]]:
        """Each run's `summary.json`."""
        return [run.summary for run in self.runs]

    @property
    def main(self) -> str:
        """The main method's name."""
        return str(self.runs[0].summary["strategy"])

    def tag(self, method: str) -> tuple[str, ...]:
        """Returns the differing settings that count for one method, as `key=value`."""
        return self._tag(method, named=self.named)

    def whole_tag(self) -> tuple[str, ...]:
        """Returns all differing settings that count for any method of these runs, as `key=value`."""
        return self._tag(None, named=True)

    def _tag(self, method: str | None, *, named: bool) -> tuple[str, ...]:
        first = self.runs[0]
        told = (key for key in self.differing if first.uses(key, method) and (named or key != "strategy.name"))
        return tuple(f"{key}={first.settings.get(key, 'default')}" for key in told)


def groups_of(paths: Sequence[Path]) -> list[RunGroup]:
    """Returns the runs in groups of equal settings but other seeds, in the order in which they are given.

    Raises:
        RunFolderError: a folder is no finished run, two runs of equal settings and seed differ in accuracy, or runs of
            one seed and of equal settings for data and clients differ in partition.
    """
    runs = [_read(path) for path in paths]
    _check_partitions(runs)
    found: dict[tuple[Any, ...], list[Run]] = {}
    for run in runs:
        found.setdefault(tuple(sorted(run.settings.items())), []).append(run)
    members = [tuple(_each_seed_once(own)) for own in found.values()]
    differing = _differing_keys([own[0] for own in members])
    groups = [RunGroup(own, differing, named=False) for own in members]
    titles = {(group.main, group.tag(group.main)) for group in groups}
    return groups if len(titles) == len(groups) else [RunGroup(own, differing) for own in members]


def bracketed(settings: Sequence[str]) -> str:
    """Returns settings as they stand behind a method's title, empty where there are none."""
    return f" [{', '.join(settings)}]" if settings else ""


def _read(path: Path) -> Run:
    folder = open_run_folder(path)
    summary = folder.read_json("summary.json")
    if summary is None:
        raise RunFolderError(f"a run must be finished to be compared, but '{folder.path}' has no summary.json")
    run = Run(folder.path, summary, to_flat(folder.read_settings()))
    told = {key: value for key, value in run.settings.items() if key not in NOT_COMPARED and run.uses(key)}
    return replace(run, settings=told)


def _check_partitions(runs: Sequence[Run]) -> None:
    seen: dict[tuple[Any, ...], tuple[str, Path]] = {}
    for run in runs:
        dealt = sorted((key, value) for key, value in run.settings.items() if key.startswith(DEALT_BY))
        seed, digest = run.summary["seed"], run.summary["partition"]["hash"]
        other = seen.setdefault((seed, *dealt), (digest, run.path))
        if other[0] != digest:
            raise RunFolderError(
                f"runs of one seed must share a partition to be compared, got {other[0][:12]} in '{other[1]}' and "
                f"{digest[:12]} in '{run.path}'"
            )


def _each_seed_once(runs: Sequence[Run]) -> list[Run]:
    """Returns runs of equal settings by seed.

    Of two that tell the same, as two sweeps may both have run it, it is the one with more baselines, or the first.

    Raises:
        RunFolderError: two runs of a seed differ in accuracy.
    """
    first: dict[int, Run] = {}
    for run in runs:
        other = first.setdefault(int(run.summary["seed"]), run)
        fewer, more = (run, other) if len(run.summary["methods"]) <= len(other.summary["methods"]) else (other, run)
        if any(more.summary["methods"].get(name) != told for name, told in fewer.summary["methods"].items()):
            raise RunFolderError(
                f"each run must be there once, got two of seed {run.summary['seed']} and equal settings that differ "
                f"in accuracy: '{other.path}' and '{run.path}'; hint: leave one out"
            )
        first[int(run.summary["seed"])] = more
    return [first[seed] for seed in sorted(first)]


def _differing_keys(runs: Sequence[Run]) -> tuple[str, ...]:
    """Returns the settings that are not the same in all of the runs in which they count."""
    keys = sorted({key for run in runs for key in run.settings})
    values = {key: {repr(run.settings.get(key)) for run in runs if run.uses(key)} for key in keys}
    return tuple(key for key in keys if len(values[key]) > 1)
