"""What keeping the common expert's embeddings is worth: `uv run python -m benchmarks.embeddings`.

A FedJETs round (ranking, training, serving unseen clients) with the table of embeddings and without it, in turn;
and what it takes to make the table, once.
"""

import argparse
import dataclasses
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks import measurement, record
from benchmarks.embedding_sides import RoundSide, computing_node, settings_of, unseen_clients
from benchmarks.workloads import work_named
from fedmoe.data.embeddings import embedding_table
from fedmoe.flower.crew import Crew
from fedmoe.flower.devices import set_up_torch
from fedmoe.flower.node import Node
from fedmoe.flower.preparation import Preparation, prepare_run
from fedmoe.settings import from_flat
from fedmoe.training.pretraining import forward_all
from fedmoe.training.sample_store import channel_statistics

__all__ = ["main", "measure", "seconds_table"]

WORKS = ("fj-mlp", "fj-resnet8")
WITH, WITHOUT = "kept", "computed"
LEAST_TURNS = 2


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures both works, prints a table and writes the JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.embeddings", description=__doc__)
    parser.add_argument("--repetitions", type=int, default=7, help="timed rounds of each side, at least 2 (7)")
    parser.add_argument("--workers", type=int, default=2, help="processes that share the work, a thread each (2)")
    record.add_arguments(parser)
    asked = parser.parse_args(arguments)
    if asked.repetitions < LEAST_TURNS or asked.workers < 1:
        parser.error(f"--repetitions must be at least {LEAST_TURNS} and --workers at least 1")
    results = {name: measure(name, asked.toy, asked.repetitions, asked.workers) for name in WORKS}
    Console().print(seconds_table(results))
    facts = {"repetitions": asked.repetitions, "workers": asked.workers}
    written = record.write(asked, "embeddings", facts, results)
    Console().print(f"written to {written}", highlight=False, soft_wrap=True)


def measure(name: str, toy: bool, repetitions: int, workers: int) -> dict[str, Any]:
    """Returns what the rounds of a work took with and without the table, and what the table took.

    Both sides do the same rounds from the same state, but for the last bits of the embeddings.

    Args:
        name: of `WORKS`.
        toy: whether the rounds are very small ones.
        repetitions: timed rounds of each side, after one that is not.
        workers: processes that share a round's work, a torch thread each.
    """
    work, progress = work_named(name, toy), Console(stderr=True)
    with (
        tempfile.TemporaryDirectory(prefix="fedmoe-benchmark-") as folder,
        mock.patch.dict(os.environ, {"FEDMOE_HOME": str(Path(folder, "home"))}),
    ):
        config = settings_of(work, Path(folder))
        settings = from_flat(config)
        set_up_torch(1, settings.deterministic)
        device = torch.device("cpu")
        preparation = prepare_run(settings, device, lambda text: None)
        nodes = {side: Node(settings, preparation.plan(), device, sharers=workers) for side in (WITH, WITHOUT)}
        computing_node(nodes[WITHOUT], preparation.common.expert)
        crews = {side: Crew(node, workers) for side, node in nodes.items()}
        sides = {side: RoundSide(config, preparation, crew) for side, crew in crews.items()}

        def tell(repetition: int, side: str, seconds: float) -> None:
            progress.print(f"{name} {repetition}/{repetitions} {side}: {seconds:.4f} s", highlight=False)

        for side in sides.values():
            side.go()
        seconds = measurement.interleave({key: side.go for key, side in sides.items()}, repetitions, tell)
        rows = measurement.summary(seconds, work.samples_per_round, WITH)
        for crew in crews.values():
            crew.close()
        once = [table_seconds(preparation, number) for number in range(repetitions)]
        saved = rows[WITHOUT]["seconds_median"] - rows[WITH]["seconds_median"]
        return {
            "work": {key: value for key, value in dataclasses.asdict(work).items() if key != "sides"},
            "unseen_clients": unseen_clients(work),
            "trainer": sides[WITH].recorder.facts.get("trainer"),
            "sides": {key: {"seconds": seconds[key], **rows[key]} for key in sides},
            "loss": {key: side.loss for key, side in sides.items()},
            "accuracy": {key: side.accuracy for key, side in sides.items()},
            "table": {
                "samples": len(preparation.data.dataset.y_N),
                "seconds": once,
                "seconds_median": median(once),
                "paid_after_rounds": median(once) / saved if saved > 0 else None,
            },
        }


def table_seconds(preparation: Preparation, number: int) -> float:
    """Returns the seconds that it takes to make the table of all samples anew, and to write it."""
    dataset, common = preparation.data.dataset, preparation.common.expert
    mean, std = channel_statistics(dataset.x_NCHW, preparation.population.public_ids)
    started = time.perf_counter()
    embedding_table(
        preparation.data.fingerprint,
        f"made for the {number}th time",
        len(dataset.y_N),
        lambda: forward_all(common, dataset.x_NCHW, mean, std, torch.device("cpu")),
    )
    return time.perf_counter() - started


def seconds_table(results: dict[str, Any]) -> Table:
    """Returns the table: a row a work."""
    table = Table(
        title="A FedJETs round: embeddings kept in a table, or computed each time",
        caption="kept, computed: seconds a round; faster: how many times as fast kept is, by the medians;\n"
        "min, max: of the repetitions; table: seconds to make it, once; paid after: so many rounds",
        box=SIMPLE_HEAD,
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("work", no_wrap=True)
    for heading in ("kept", "computed", "faster", "min", "max", "table", "paid after"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, result in results.items():
        kept, computed = result["sides"][WITH], result["sides"][WITHOUT]
        rounds = result["table"]["paid_after_rounds"]
        table.add_row(
            name,
            *(f"{side['seconds_median']:.3g}" for side in (kept, computed)),
            *(f"{computed[f'times_as_fast{which}']:.2f}x" for which in ("", "_min", "_max")),
            f"{result['table']['seconds_median']:.3g}",
            "never" if rounds is None else f"{rounds:.1f}",
        )
    return table


if __name__ == "__main__":
    main()
