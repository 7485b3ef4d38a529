"""All that a run has written so far, read back: what plots and the report are made of."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedmoe.recording.rounds import read_rounds
from fedmoe.recording.run_folder import MAIN, folder_name, open_run_folder
from fedmoe.recording.wording import method_title
from fedmoe.settings import to_flat

__all__ = ["Figures", "Line", "RunRecord", "dead_experts", "evaluations", "is_dense", "read_run"]

Line = Mapping[str, Any]
Figures = dict[str, dict[str, Mapping[str, float | None]]]

WINDOW = 10
UNTOLD = ("clients", "rankings")  # of a round; nothing is drawn of them, and with many clients they are most of it


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """A run as its files tell it; a killed run lacks the summary and later rounds.

    Attributes:
        path: the run folder.
        main: the main method's name.
        rounds: the rounds of each method by its name, the main one first.
        settings: flat, as `fedmoe.settings.to_flat` gives them.
        summary: `summary.json`, or empty.
        environment: `environment.json`, or empty.
        partition: `partition.json`, or empty.
    """

    path: Path
    main: str
    rounds: dict[str, list[dict[str, Any]]]
    settings: dict[str, Any]
    summary: dict[str, Any]
    environment: dict[str, Any]
    partition: dict[str, Any]

    @property
    def ended(self) -> bool:
        """Whether the run got to its end."""
        return bool(self.summary)

    def figures(self) -> Figures:
        """Returns method -> way to predict -> mean, std, worst decile: the summary's, or the latest evaluations'."""
        methods = self.summary.get("methods")
        if not methods:
            methods = {
                name: found[-1]["evaluate"]["methods"] for name in self.rounds if (found := self.evaluated(name))
            }
        return {
            method: {variant: told for variant, told in variants.items() if isinstance(told, Mapping)}
            for method, variants in methods.items()
        }

    def evaluated(self, method: str) -> list[dict[str, Any]]:
        """Returns the rounds of a method that ended in an evaluation."""
        return evaluations(self.rounds.get(method, []))

    def dense(self, method: str) -> bool:
        """Returns whether a method has one model and therefore no gate."""
        return is_dense(self.rounds.get(method, []))

    def title(self, method: str) -> str:
        """Returns a method's name for a person."""
        return method_title(method)


def read_run(path: Path) -> RunRecord:
    """Returns what the run folder at `path` holds; a torn last line of a killed run is left out.

    Raises:
        RunFolderError: there is no run, or one of its files is damaged.
    """
    folder = open_run_folder(path)
    settings = to_flat(folder.read_settings())
    summary = folder.read_json("summary.json") or {}
    main = str(summary.get("strategy") or settings["strategy.name"])
    rounds = {main: read_rounds(folder.method(MAIN).rounds, torn_ok=True, without=UNTOLD)}
    # Folders have short names, the summary and settings have those that the person wrote.
    written = {folder_name(name): name.strip() for name in str(settings["evaluate.baselines"]).split(",")}
    for short in folder.baselines():
        name = written.get(short, short)
        told = read_rounds(folder.method(short).rounds, torn_ok=True, without=UNTOLD)
        rounds[f"{name} (baseline)" if name == main else name] = told
    return RunRecord(
        path=folder.path,
        main=main,
        rounds=rounds,
        settings=dict(settings),
        summary=summary,
        environment=folder.read_json("environment.json") or {},
        partition=folder.read_json("partition.json") or {},
    )


def evaluations(rounds: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns those of the rounds that ended in an evaluation."""
    return [line for line in rounds if (line.get("evaluate") or {}).get("methods")]


def is_dense(rounds: list[dict[str, Any]]) -> bool:
    """Returns whether there is but one expert: a dense model, without a gate."""
    return bool(rounds) and len(rounds[-1].get("load") or [0]) == 1


def dead_experts(rounds: list[dict[str, Any]]) -> dict[int, str]:
    """Returns expert -> why it is dead, for experts that nobody holds or that no unseen client's sample goes to.

    Judged over the last 10 rounds, and over their evaluations; where none of them has one, over all evaluations.
    """
    if is_dense(rounds):
        return {}
    latest = rounds[-WINDOW:]
    reasons: dict[int, list[str]] = {}
    for expert in range(len(latest[-1]["load"]) if latest else 0):
        if not any(line["load"][expert] for line in latest):
            reasons.setdefault(expert, []).append(f"nobody held it in the last {len(latest)} rounds")
    tests = [line["evaluate"]["dispatch"] for line in evaluations(latest) or evaluations(rounds)]
    for expert in range(len(tests[-1]) if tests else 0):
        if all(shares[expert] == 0 for shares in tests):
            tried = "the last evaluation" if len(tests) == 1 else f"the last {len(tests)} evaluations"
            reasons.setdefault(expert, []).append(f"no sample of an unseen client went to it in {tried}")
    return {expert: " and ".join(why) for expert, why in sorted(reasons.items())}
