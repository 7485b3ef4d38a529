"""Self-Tuning Networks (arXiv 1903.03088) federated: clients tune their rates of dropout on a fifth of their samples.

Digits in three domains: plenty of samples a client, few, plenty with wrong labels. Held against rates that are the same
for all and stay, from a grid; those train on the fifth, too.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.theory.experiment import Experiment, Figures, Results, main
from benchmarks.theory.federated import federated_run, summary_of
from benchmarks.theory.noisy_digits import DOMAINS
from fedmoe.moe.experts.best_response import MOST
from fedmoe.personal import Personalizer
from fedmoe.recording.client_states import ClientStates

__all__ = ["EXPERIMENT", "ROWS"]

ROUNDS, CLIENTS, PACE = 100, 12, 3.0
ALWAYS: Mapping[str, Any] = {
    "data.name": "benchmarks.theory.noisy_digits:load_noisy_digits",
    "data.public-samples": 60,
    "common-expert.model": "mlp",
    "common-expert.epochs": 1,
    "clients.partition": "domain",
    "clients.anchors-per-round": 0,
    "clients.num": CLIENTS,
    "clients.per-round": CLIENTS,
    "evaluate.seen": CLIENTS,
    "evaluate.ema": 0.0,
    "experts.model": "best_response",
    "experts.num": 1,
    "experts.top-k": 1,
    "experts.best_response.pace": PACE,
    "strategy.name": "self_tuning",
}


@dataclass(frozen=True)
class Row:
    """Where the rate starts, and whether clients tune it."""

    start: float
    tuned: bool = True


ROWS: Mapping[str, Row] = {
    **{f"tuned from {start:g}": Row(start) for start in (0.05, 0.6)},
    **{f"left at {start:g}": Row(start, tuned=False) for start in (0.05, 0.3, 0.6)},
}


def rates_of(run: Path, rounds: int) -> Mapping[int, float]:
    """Returns the rate of dropout that each client has come to; nothing where none is tuned."""
    states = ClientStates(run / "client-states")
    kept = {client: states.load(client, rounds) for client in range(CLIENTS)}
    return {
        client: MOST / (1 + float(np.exp(-PACE * own["private/hyper*/expert/0"][0])))
        for client, own in kept.items()
        if own
    }


def domains_in(run: Path) -> list[int]:
    """Returns the domain of each training client."""
    population = Personalizer(run).trained.preparation.population
    return [int(population.domain_N[population.shards[client][0]]) for client in range(CLIENTS)]


def measure(row: str, seed: int, small: bool) -> Figures:
    """Returns accuracies (percent) with the clients' own and with the mean rate, and the rates by domain."""
    kind, rounds = ROWS[row], 12 if small else ROUNDS
    given = {"experts.best_response.rate": kind.start, "strategy.self_tuning.tune": kind.tuned}
    with federated_run({"seed": seed, **ALWAYS, **given}, rounds) as run:
        told, rates, homes = summary_of(run), rates_of(run, rounds), domains_in(run)
    by_domain = {
        f"rate/{name}": float(np.mean([rate for client, rate in rates.items() if homes[client] == number]))
        for number, name in enumerate(DOMAINS)
        if rates
    }
    return {
        "seen": 100 * told["seen"]["self_tuning"]["zero_shot"]["mean"],
        "worst": 100 * told["seen"]["self_tuning"]["zero_shot"]["worst_decile"],
        "unseen": 100 * told["unseen"]["accuracy_mean"],
        **by_domain,
    }


def draw(results: Results, figure: Figure) -> None:
    """Draws the rates by domain, and accuracies."""
    left, right = figure.subplots(1, 2)
    tuned = [row for row in results if ROWS[row].tuned]
    for number, row in enumerate(tuned):
        found = np.array([[run[f"rate/{name}"] for name in DOMAINS] for run in results[row]])
        places = np.arange(len(DOMAINS)) + 0.1 * (number - 0.5)
        left.plot(places, found.T, ".", color=f"C{number}", alpha=0.5)
        left.plot(places, found.mean(axis=0), "_", color=f"C{number}", markersize=18, label=row)
    left.set_xticks(range(len(DOMAINS)), list(DOMAINS))
    left.set_ylabel("rate of dropout at the end (a dot a seed)")
    left.legend(frameon=False, fontsize=8)
    heights = np.arange(len(results))[::-1]
    for number, (name, label) in enumerate(
        (("seen", "training clients, their own rate"), ("unseen", "unseen clients"))
    ):
        values = np.array([[run[name] for run in runs] for runs in results.values()])
        spread = values.std(axis=1, ddof=min(1, values.shape[1] - 1))
        marks = {"fmt": "oD"[number], "color": f"C{2 + number}", "markersize": 5, "label": label}
        right.errorbar(values.mean(axis=1), heights - 0.15 * number, xerr=spread, **marks)
    right.set_yticks(heights, list(results))
    right.set_xlabel("accuracy on test samples, %")
    right.grid(axis="x", alpha=0.3)
    figure.legend(*right.get_legend_handles_labels(), loc="outside lower right", ncols=2, frameon=False, fontsize=8)


EXPERIMENT = Experiment(
    name="self_tuning_federated",
    title="Rate of dropout",
    rows=tuple(ROWS),
    measure=measure,
    draw=draw,
    columns={
        "seen": "training clients, %",
        "worst": "their worst decile, %",
        "unseen": "unseen clients, %",
        **{f"rate/{name}": f"rate, {name}" for name in DOMAINS},
    },
    digits=dict.fromkeys(("seen", "worst", "unseen"), 1),
)

if __name__ == "__main__":
    main(EXPERIMENT)
