"""How cost and memory grow with clients, clients a round, experts and nodes: `uv run python -m benchmarks.scale`.

Every configuration is the set-up and the rounds of a FedJETs run on generated data, in a process of its own. What a run
writes is left out: no run folder, no checkpoint. Rounds are timed without their evaluation; the first one, in which the
trainers are compared, does not count. The configurations of one kind of growth take turns, and set up everything anew
each time, for memory is measured as well; told are medians over the turns, and from where to where they go.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks import measurement, record, scale_data
from benchmarks.scale_case import TEST_SAMPLES, Case

__all__ = ["in_its_own_process", "in_turn", "main", "measure", "sweeps"]

ROOT = Path(__file__).parents[1]
MOST_GROWTH = 1.3  # the promise: memory above the data, the most clients against a hundredth of them
QUIET = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "HF_HUB_OFFLINE": "1"}
MEGABYTE = 1e6

Row = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures all configurations, prints a table for each kind of growth and writes the JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--only", default="", help="of clients,per_round,experts,nodes; default: all")
    parser.add_argument("--rounds", type=int, default=20, help="rounds of each run, at least 3 (20)")
    parser.add_argument("--workers", type=int, default=0, help="processes a node, a torch thread each (one a core)")
    parser.add_argument("--repetitions", type=int, default=5, help="turns of each configuration (5)")
    record.add_arguments(parser)
    asked = parser.parse_args(arguments)
    if asked.rounds < 3 or asked.repetitions < 1:
        parser.error(f"at least 3 rounds and 1 repetition are needed, got {asked.rounds} and {asked.repetitions}")
    planned = sweeps(asked.toy, asked.rounds, asked.workers)
    chosen = [name for name in asked.only.split(",") if name] or list(planned)
    if unknown := [name for name in chosen if name not in planned]:
        parser.error(f"'{unknown[0]}' must be one of {', '.join(planned)}")
    progress, results = Console(stderr=True), {}
    for name in chosen:
        results[name] = in_turn(planned[name], asked.repetitions, progress)
        Console().print(growth_table(name, results[name]))
        facts = {"rounds": asked.rounds, "workers": asked.workers, "repetitions": asked.repetitions}
        written = record.write(asked, "scale", facts, results)  # after each kind: what was measured stays
        Console().print(f"{name} is in {written}", highlight=False, soft_wrap=True)
    if "clients" in results:
        Console().print(verdict(results["clients"]), highlight=False)


def sweeps(toy: bool, rounds: int, workers: int) -> dict[str, list[Case]]:
    """Returns the configurations of each kind of growth, by the name of what grows."""
    small = Case(clients=30, per_round=6, rounds=3, workers=1, experts=2)
    if toy:
        return {
            "clients": [small, dataclasses.replace(small, clients=60)],
            "nodes": [small, dataclasses.replace(small, nodes=2)],
        }

    def case(clients: int, per_round: int, **sizes: int) -> Case:
        return Case(clients=clients, per_round=min(clients, per_round), rounds=rounds, workers=workers, **sizes)

    return {
        "clients": [case(clients, 1_000) for clients in (100, 1_000, 10_000, 100_000)],
        "per_round": [case(10_000, per_round) for per_round in (10, 30, 100, 300, 1_000)],
        "experts": [case(10_000, 300, experts=experts, labels=20) for experts in (2, 5, 10, 20)],
        "nodes": [case(10_000, 1_000, nodes=nodes) for nodes in (1, 2, 4)],
    }


def in_turn(cases: Sequence[Case], repetitions: int, progress: Console) -> list[Row]:
    """Returns a row for each case: its sizes, what all its runs came to (`runs`), and their medians."""
    runs: dict[int, list[Row]] = {index: [] for index in range(len(cases))}
    for repetition in range(repetitions):
        for name in measurement.turns([str(index) for index in runs], repetition):
            progress.print(f"{repetition + 1}/{repetitions}", style="dim", end=" ")
            runs[int(name)].append(measure(cases[int(name)], progress))
    return [{**vars(case), **medians(runs[index]), "runs": runs[index]} for index, case in enumerate(cases)]


def medians(runs: Sequence[Row]) -> Row:
    """Returns the medians over a case's runs of the seconds and of the bytes, and which trainers were chosen."""
    peaks = {mark: {"peak": median(run["memory"][mark]["peak"] for run in runs)} for mark in ("early", "late")}
    return {
        "round_median": median(run["round_median"] for run in runs),
        "prepare_seconds": median(run["prepare_seconds"] for run in runs),
        "memory": peaks,
        "data_bytes": median(run["data_bytes"] for run in runs),
        "trainer": ", ".join(sorted({run["trainer"] for run in runs})),
    }


def measure(case: Case, progress: Console) -> Row:
    """Returns the case's sizes, and what one run of it came to."""
    progress.print(" ".join(f"{key}={value}" for key, value in vars(case).items()), style="dim")
    with tempfile.TemporaryDirectory(prefix="fedmoe-scale-") as folder:
        data = Path(folder) / "data"
        data.mkdir()
        scale_data.write(data, case.train_samples, TEST_SAMPLES, case.labels)
        return {**vars(case), **in_its_own_process(case, data)}


def in_its_own_process(case: Case, data: Path) -> Row:
    """Returns what `scale_run.run_case` does, of a fresh process; caches lie beside the data.

    Raises:
        SystemExit: the process failed; its last words are quoted.
    """
    command = [sys.executable, "-m", "benchmarks.scale_run", json.dumps(dataclasses.asdict(case)), str(data)]
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | QUIET | {"PYTHONPATH": paths, "FEDMOE_HOME": str(data.parent / "home")}
    ended = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603
    if ended.returncode != 0:
        raise SystemExit(f"{vars(case)} failed with {ended.returncode}: {ended.stderr.strip()[-2000:]}")
    row: Row = json.loads(ended.stdout.splitlines()[-1])
    return row


COLUMNS: tuple[tuple[str, Callable[[Row], float], str], ...] = (
    ("s a round", lambda row: row["round_median"], "{:.3f}"),
    ("rounds/s", lambda row: 1 / row["round_median"], "{:.2f}"),
    ("ms a client", lambda row: 1e3 * row["round_median"] / row["per_round"], "{:.3f}"),
    ("set-up s", lambda row: row["prepare_seconds"], "{:.1f}"),
    ("peak MB, 2 rounds", lambda row: row["memory"]["early"]["peak"] / MEGABYTE, "{:.0f}"),
    ("peak MB, all", lambda row: row["memory"]["late"]["peak"] / MEGABYTE, "{:.0f}"),
    ("data MB", lambda row: row["data_bytes"] / MEGABYTE, "{:.0f}"),
    ("above data MB", lambda row: above_data(row) / MEGABYTE, "{:.0f}"),
)
RATIOS = {"s a round", "above data MB"}  # told as multiples of the first row's too, and with their ranges


def above_data(row: Mapping[str, Any]) -> int:
    """Returns the bytes of memory, at its peak, beyond those of the data itself."""
    return int(row["memory"]["late"]["peak"]) - int(row["data_bytes"])


def growth_table(name: str, rows: Sequence[Row]) -> Table:
    """Returns the table of one kind of growth, with ratios to its first row."""
    first = rows[0]
    sizes = [key for key in ("clients", "per_round", "experts", "nodes", "rounds") if key != name]
    same = [f"{key} {first[key]:,}" for key in sizes if len({row[key] for row in rows}) == 1]
    table = Table(title=f"{name} grow; else {', '.join(same)}".replace("_", " "), box=SIMPLE_HEAD)
    for column in (name.replace("_", " "), *(title for title, _, _ in COLUMNS), "trainer"):
        table.add_column(column, justify="right")
    for row in rows:
        cells = []
        for title, read, form in COLUMNS:
            cell = form.format(read(row))
            if title in RATIOS:
                low, high = (form.format(pick(map(read, row["runs"]))) for pick in (min, max))
                cell += f" [{low}..{high}] ({read(row) / read(first):.2f}x)"
            cells.append(cell)
        grown = f"{row[name]:,}" + (f" ({row['per_round']:,} a round)" if name == "clients" else "")
        table.add_row(grown, *map(escape, cells), row["trainer"])
    return table


def verdict(rows: Sequence[Row]) -> str:
    """Returns, in a line, how memory above the data has grown from a hundredth of the most clients to the most."""
    most = max(rows, key=lambda row: int(row["clients"]))
    base = min(rows, key=lambda row: abs(100 * row["clients"] - most["clients"]))
    growth = above_data(most) / above_data(base)
    single = [above_data(many) / above_data(few) for many, few in zip(most["runs"], base["runs"], strict=True)]
    kept = "kept" if growth <= MOST_GROWTH else "BROKEN"
    return (
        f"memory above the data itself, {most['clients']:,} clients against {base['clients']:,}: {growth:.2f}x by the "
        f"medians, {min(single):.2f}x to {max(single):.2f}x by turns (at most {MOST_GROWTH}x is promised: {kept})"
    )


if __name__ == "__main__":
    main()
