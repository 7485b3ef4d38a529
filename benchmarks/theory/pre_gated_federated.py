"""Pre-gated MoE's idea between rounds: FedJETs and FedPrints with experts chosen and sent a round ahead, and without.

The quickstart's digits: FedJETs with a partition by labels, FedPrints with five looks.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.theory.experiment import Experiment, Figures, Results, main
from benchmarks.theory.federated import federated_run

__all__ = ["EXPERIMENT", "ROWS"]

ROUNDS, EVERY = 40, 5
SMALL_ROUNDS = 10


@dataclass(frozen=True)
class Row:
    """A run: over which strategy, and which version its clients train; empty: nothing is sent ahead."""

    over: str
    version: str
    settings: Mapping[str, Any]


TITLES = {"fedjets": "FedJETs", "fedprints": "FedPrints"}
WORDS = {"": "", "ahead": ", ahead", "latest": ", ahead, latest version sent again"}
ROWS: Mapping[str, Row] = {
    f"{TITLES[over]}{place}{words}": Row(over, version, settings)
    for over, place, settings in (
        ("fedjets", "", {}),
        ("fedprints", " on five looks", {"clients.partition": "domain", "clients.unseen": 5}),
    )
    for version, words in WORDS.items()
}


def measure(row: str, seed: int, small: bool) -> Figures:
    """Returns accuracies on unseen clients in percent, the hit rate in percent, megabytes and exchanges of the run."""
    own, rounds = ROWS[row], SMALL_ROUNDS if small else ROUNDS
    given = {**own.settings, "seed": seed, "strategy.name": own.over, "evaluate.every": EVERY}
    if own.version:
        given |= {
            "strategy.name": "prefetch",
            "strategy.prefetch.over": own.over,
            "strategy.prefetch.version": own.version,
        }
    with federated_run(given, rounds) as run:
        lines = [json.loads(text) for text in (run / "rounds.jsonl").read_text().splitlines()]
    curve = {
        line["round"]: 100 * line["evaluate"]["methods"]["zero_shot"]["mean"] for line in lines if line["evaluate"]
    }
    figures = {
        "accuracy": curve[rounds],
        "early": curve[min(20, rounds)],
        "down": sum(line["bytes"]["down"] for line in lines) / 1e6,
        "up": sum(line["bytes"]["up"] for line in lines) / 1e6,
        **{f"curve/{number}": value for number, value in curve.items()},
    }
    told = [line["prefetch"] for line in lines if "prefetch" in line]
    judged = sum(one["judged"] for one in told)
    rankings = sum(bool(line["rankings"]) if "rankings" in line else line["round"] == 1 for line in lines)
    figures["exchanges"] = float(sum(one["exchanges"] for one in told) or rounds + rankings)
    if judged:
        figures["hits"] = 100 * sum(one["hits"] for one in told) / judged
        rates = {
            line["round"]: line["prefetch"]["hit_rate"] for line in lines if line["prefetch"]["hit_rate"] is not None
        }
        figures |= {f"hit/{number}": 100 * rate for number, rate in rates.items()}
    if told:
        figures["ahead"] = sum(one["bytes_ahead"] for one in told) / 1e6
        figures["wasted"] = sum(one["bytes_wasted"] for one in told) / 1e6
    return figures


def draw(results: Results, figure: Figure) -> None:
    """Draws accuracy by round for both strategies, and how often what was sent ahead was right."""
    panels = figure.subplots(1, 3, width_ratios=(3, 3, 2))
    for panel, (over, title) in zip(panels, TITLES.items(), strict=False):
        for colour, (version, words) in enumerate(WORDS.items()):
            (runs,) = (results[name] for name, row in ROWS.items() if (row.over, row.version) == (over, version))
            series(panel, runs, "curve", f"C{colour}", words.removeprefix(", ") or "alone")
        panel.set_title(title)
        panel.set_xlabel("round")
        panel.set_ylim(0, 100)
    panels[0].set_ylabel("accuracy on unseen clients, %")
    for colour, version in ((1, "ahead"), (2, "latest")):
        (runs,) = (results[name] for name, row in ROWS.items() if (row.over, row.version) == ("fedjets", version))
        series(panels[2], runs, "hit", f"C{colour}", "")
    panels[2].set_title("FedJETs")
    panels[2].set_xlabel("round")
    panels[2].set_ylabel("experts sent ahead that the new gate takes, %")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)


def series(panel: Any, runs: Any, name: str, colour: str, label: str) -> None:
    """Draws the mean over seeds of a figure that is told by round."""
    by_round: dict[int, list[float]] = {}
    for run in runs:
        for key, value in run.items():
            if key.startswith(f"{name}/"):
                by_round.setdefault(int(key.split("/")[1]), []).append(value)
    rounds = sorted(by_round)
    panel.plot(rounds, [np.mean(by_round[number]) for number in rounds], color=colour, label=label)


EXPERIMENT = Experiment(
    name="pre_gated_federated",
    title="Run",
    rows=tuple(ROWS),
    measure=measure,
    draw=draw,
    columns={
        "early": "unseen clients, round 20, %",
        "accuracy": f"round {ROUNDS}",
        "hits": "hit rate, %",
        "exchanges": "exchanges in the run",
        "down": "MB down",
        "up": "MB up",
        "ahead": "MB sent ahead",
        "wasted": "MB wasted",
    },
    digits=dict.fromkeys(("early", "accuracy", "hits", "down", "up", "ahead", "wasted"), 1) | {"exchanges": 0},
)

if __name__ == "__main__":
    main(EXPERIMENT)
