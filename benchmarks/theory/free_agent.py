"""RLFA (arXiv 2501.17903): drift hits one expert of a federated pool; with and without a life cycle of experts.

Digits in three looks, one a client. From round 61 of 100 on all samples of one look have their labels permuted, in
training and in new clients alike. Rows without drift count alarms, over four runs a seed.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.theory.experiment import Experiment, Figures, Results, main
from benchmarks.theory.federated import federated_run
from fedmoe.data.population_cache import open_population

__all__ = ["EXPERIMENT", "ROWS", "first_reaching"]

ROUNDS, DRIFT = 100, 61
SMALL_ROUNDS, SMALL_DRIFT = 45, 31
GROUP = 1
BEFORE, STEADY = 10, 3
RUNS_A_SEED = 4
DOMAINS: Mapping[str, Any] = {
    "clients.partition": "domain",
    "clients.domains": "identity,rotate90,negative",
    "clients.unseen": 3,
    "clients.anchors-per-round": 3,
    "experts.num": 3,
    "evaluate.ema": 0.0,
}
Lines = list[dict[str, Any]]


@dataclass(frozen=True)
class Row:
    """A run: over which strategy, and with which arguments of the life cycle; `None`: without it."""

    over: str
    cycle: Mapping[str, Any] | None = field(default_factory=dict)
    drifts: bool = True


TITLES = {"fedjets": "FedJETs", "fedprints": "FedPrints"}
ROWS: Mapping[str, Row] = {
    f"{TITLES[over]}{words}": Row(over, cycle, drifts)
    for over in TITLES
    for words, cycle, drifts in (
        ("", None, True),
        (", life cycle", {}, True),
        (", life cycle, random newcomers", {"newcomer": "random"}, True),
        (", life cycle, no drift", {}, False),
    )
}


def lines_of(row: Row, seed: int, rounds: int, drift: int) -> tuple[Lines, int, int]:
    """Returns a run's rounds, the unseen client of the group that drifts, and the expert that it had before."""
    given = {**DOMAINS, "seed": seed, "strategy.name": row.over, "evaluate.every": 1 if row.drifts else rounds}
    if row.cycle is not None:
        own = {f"strategy.free_agent.{name}": value for name, value in {"over": row.over, **row.cycle}.items()}
        given |= {"strategy.name": "free_agent", **own}
    if row.drifts:
        given |= {"clients.drift-round": drift, "clients.drift-group": GROUP}
    with federated_run(given, rounds) as run:
        lines = [json.loads(text) for text in (run / "rounds.jsonl").read_text().splitlines()]
        client = unseen_of(run, GROUP)
    if not row.drifts:
        return lines, client, -1
    (own,) = (told for told in lines[drift - 2]["evaluate"]["clients"] if told["client_id"] == client)
    return lines, client, int(own["experts"][0])


def unseen_of(run: Path, group: int) -> int:
    """Returns the unseen client that lives in this domain."""
    population = open_population(json.loads((run / "partition.json").read_text())["hash"], np.zeros(0, dtype=np.int64))
    homes = {client: int(population.domain_N[population.shards[client][0]]) for client in population.unseen}
    return next(client for client, home in homes.items() if home == group)


def first_reaching(figures: list[float], wanted: float, steady: int = STEADY) -> float:
    """Returns how many rounds it takes to reach `wanted` and stay there for so many; NaN where that never happens.

    >>> first_reaching([0.1, 0.9, 0.2, 0.9, 0.9, 0.9], 0.5)
    4.0
    """
    for number in range(len(figures) - steady + 1):
        if min(figures[number : number + steady]) >= wanted:
            return float(number + 1)
    return float("nan")


def measure(row: str, seed: int, small: bool) -> Figures:
    """Returns accuracies of the client that drift hits, percent, and after how many rounds what has happened."""
    own, (rounds, drift) = ROWS[row], (SMALL_ROUNDS, SMALL_DRIFT) if small else (ROUNDS, DRIFT)
    if not own.drifts:
        seeds = [seed] if small else range(RUNS_A_SEED * seed, RUNS_A_SEED * (seed + 1))
        told = [events_of(lines_of(own, one, rounds, drift)[0]) for one in seeds]
        return {"alarms": float(sum(len(events) for events in told))}
    lines, client, expert = lines_of(own, seed, rounds, drift)
    accuracies = [
        100 * float(told["zero_shot"])
        for line in lines
        for told in line["evaluate"]["clients"]
        if told["client_id"] == client
    ]
    before = float(np.mean(accuracies[drift - 1 - BEFORE : drift - 1]))
    after = accuracies[drift - 1 :]
    figures = {
        "before": before,
        **{f"after/{n}": after[n - 1] for n in (1, 5, 10, 20) if n <= len(after)},
        "end": float(np.mean(after[-BEFORE:])),
        "recovered": first_reaching(after, 0.9 * before),
        "down": sum(line["bytes"]["down"] for line in lines) / 1e6,
        "up": sum(line["bytes"]["up"] for line in lines) / 1e6,
    }
    events = events_of(lines)
    for name, what in (("found", "alarm"), ("replaced", "replaced")):
        hit = [n - drift + 1 for n, i, happened in events if (i, happened) == (expert, what) and n >= drift]
        figures |= {name: float(hit[0])} if hit else {}
    if own.cycle is not None:
        figures["early"] = float(sum(what == "alarm" for n, _, what in events if n < drift))
        figures["others"] = float(sum(what == "alarm" and i != expert for n, i, what in events if n >= drift))
    curve = {f"curve/{n - drift}": value for n, value in enumerate(accuracies, start=1) if n >= drift - BEFORE}
    return {**{name: value for name, value in figures.items() if not np.isnan(value)}, **curve}


def events_of(lines: Lines) -> list[tuple[int, int, str]]:
    """Returns round, expert and what has happened to it, in their order."""
    told = ((line["round"], line.get("life_cycle", {}).get("events", ())) for line in lines)
    return [(number, int(expert), str(what)) for number, events in told for expert, what in events]


def draw(results: Results, figure: Figure) -> None:
    """Draws the accuracy of the client that drift hits, round by round; a line a seed, and their mean."""
    for panel, (over, title) in zip(figure.subplots(1, 2, sharey=True), TITLES.items(), strict=True):
        rows = [(name, row) for name, row in ROWS.items() if row.over == over and row.drifts and name in results]
        for colour, (name, row) in enumerate(rows):
            words = (
                "without" if row.cycle is None else "life cycle" if not row.cycle else "life cycle, random newcomers"
            )
            curves = [
                {int(key.split("/")[1]): value for key, value in run.items() if key.startswith("curve/")}
                for run in results[name]
            ]
            rounds = sorted(set.intersection(*(set(curve) for curve in curves)))
            for curve in curves:
                panel.plot(rounds, [curve[n] for n in rounds], color=f"C{colour}", alpha=0.25, linewidth=0.7)
            means = [np.mean([curve[n] for curve in curves]) for n in rounds]
            panel.plot(rounds, means, color=f"C{colour}", label=words, linewidth=2)
        panel.axvline(0, color="0.6", linestyle=":", zorder=0)
        panel.set_title(title)
        panel.set_xlabel("rounds since the labels of its look were permuted")
        panel.set_ylim(0, 100)
    figure.axes[0].set_ylabel("accuracy on the unseen client that drift hits, %")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)


EXPERIMENT = Experiment(
    name="free_agent",
    title="Run",
    rows=tuple(ROWS),
    measure=measure,
    draw=draw,
    columns={
        "before": "before, %",
        "after/1": "after 1 round",
        "after/5": "5",
        "after/10": "10",
        "after/20": "20",
        "end": "last 10",
        "found": "found after, rounds",
        "replaced": "replaced after",
        "recovered": "90 % again after",
        "early": "alarms before the drift",
        "others": "alarms of other experts",
        "alarms": "alarms without drift, 4 runs",
        "down": "MB down",
        "up": "MB up",
    },
    digits=dict.fromkeys(
        ("before", "after/1", "after/5", "after/10", "after/20", "end", "found", "replaced", "recovered"), 1
    )
    | dict.fromkeys(("down", "up", "early", "others", "alarms"), 1),
)

if __name__ == "__main__":
    main(EXPERIMENT)
