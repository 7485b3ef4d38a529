"""How fast a round is, ours beside its peers: `uv run --group benchmarks python -m benchmarks.throughput`.

All sides of a work do the same round, each in a process of its own, in turn. Rounds train and average, nothing else:
no evaluation, no checkpoint.
"""

import argparse
import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks import measurement, record
from benchmarks.sides import SIDES
from benchmarks.workers import SideError, Worker, WorkerOptions, workers
from benchmarks.workloads import WORKS, Work, work_named

__all__ = ["comparison_table", "main", "measure"]

OURS = "fedmoe"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures the works that were asked for, prints a table for each and writes the JSON.

    Raises:
        SystemExit: with one line on stderr, when a side or an argument is at fault.
    """
    parser = arguments_parser()
    asked = parser.parse_args(arguments)
    for name in [*asked.work, *asked.sides]:
        known = WORKS if name in asked.work else SIDES
        if name not in known:
            parser.error(f"'{name}' must be one of {', '.join(known)}")
    options = WorkerOptions(asked.threads, asked.warm_up, asked.omp_wait_policy)
    progress, results = Console(stderr=True), {}
    for name in asked.work:
        work = work_named(name, asked.toy)
        sides = chosen_sides(parser, work, asked.sides)
        try:
            results[name] = measure(work, sides, asked.repetitions, options, progress)
        except SideError as error:
            raise SystemExit(f"{name}: {error}") from error
        Console().print(comparison_table(work, results[name]))
        facts = dataclasses.asdict(options) | {"repetitions": asked.repetitions}
        written = record.write(asked, "throughput", facts, results)  # after each work: what was measured stays
        Console().print(f"{name} is in {written}", highlight=False, soft_wrap=True)


def arguments_parser() -> argparse.ArgumentParser:
    """Returns the command's parser."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.throughput",
        description="A round of federated training, fedmoe beside its peers, all sides in turn.",
    )
    names = lambda text: [name for name in text.split(",") if name]  # noqa: E731
    parser.add_argument("--work", type=names, default=list(WORKS), help=f"of {','.join(WORKS)}; default: all")
    parser.add_argument("--sides", type=names, default=[], help=f"of {','.join(SIDES)}; default: each work's own")
    parser.add_argument("--repetitions", type=at_least(2), default=7, help="timed turns of each side (7)")
    parser.add_argument("--warm-up", type=at_least(1), default=2, help="untimed rounds before them (2)")
    parser.add_argument("--threads", type=at_least(1), default=2, help="torch threads a side, actors of Flower's (2)")
    parser.add_argument(
        "--omp-wait-policy",
        choices=("passive", "active"),
        default="",
        help="for all sides alike; default: what a side's libraries set (fedmoe: passive, the others: none)",
    )
    record.add_arguments(parser)
    return parser


def at_least(low: int) -> Any:
    """Returns a reader of whole numbers that refuses those below `low`."""

    def number(text: str) -> int:
        if not text.isdecimal() or int(text) < low:
            raise argparse.ArgumentTypeError(f"a whole number of at least {low} is needed, got '{text}'")
        return int(text)

    return number


def chosen_sides(parser: argparse.ArgumentParser, work: Work, asked: Sequence[str]) -> list[str]:
    """Returns the sides that do the work: its own, or those that were asked for and can do it."""
    sides = [name for name in asked if SIDES[name].fits(work)] or ([] if asked else list(work.sides))
    if not sides:
        able = [name for name, side in SIDES.items() if side.fits(work)]
        parser.error(f"none of --sides {','.join(asked)} does the work {work.name}; hint: {','.join(able)}")
    return sides


def measure(
    work: Work, sides: Sequence[str], repetitions: int, options: WorkerOptions, progress: Console
) -> dict[str, Any]:
    """Returns what a work's sides took: the work, and for each side its raw seconds and what they come to.

    Raises:
        SideError: a side died, or did not do the same work as the others.
    """
    ours = OURS if OURS in sides else sides[0]
    with tempfile.TemporaryDirectory(prefix="fedmoe-benchmark-") as folder:
        progress.print(f"{work.name}: {', '.join(sides)} come up and warm up", highlight=False, soft_wrap=True)
        with workers(sides, work, options, Path(folder)) as running:

            def tell(repetition: int, side: str, seconds: float) -> None:
                progress.print(f"{work.name} {repetition}/{repetitions} {side}: {seconds:.4f} s", highlight=False)

            turns = {name: worker.go for name, worker in running.items()}
            seconds = measurement.interleave(turns, repetitions, tell)
            rows = measurement.summary(seconds, work.samples_per_round, ours)
            return {
                "work": {key: value for key, value in dataclasses.asdict(work).items() if key != "sides"},
                "samples": work.samples_per_round,
                "compared_with": ours,
                "sides": {name: side_result(running[name], seconds[name], rows[name]) for name in sides},
            }


def side_result(worker: Worker, seconds: Sequence[float], row: Mapping[str, float]) -> dict[str, Any]:
    """Returns one side's part of the record."""
    return {"about": SIDES[worker.name].about, "ready": worker.ready, "seconds": list(seconds), **row}


def comparison_table(work: Work, result: Mapping[str, Any]) -> Table:
    """Returns the table of a work: a row a side, and in the last columns how many times as fast as it ours is."""
    ours = result["compared_with"]
    says = f"{ours} is so many times as fast, by the medians; min and max: of the repetitions, each side beside {ours}"
    legend = [says, *(f"{name}: {row['about']}{chosen(row['ready'])}" for name, row in result["sides"].items())]
    table = Table(
        title=work.title, caption="\n".join(legend), box=SIMPLE_HEAD, title_justify="left", caption_justify="left"
    )
    table.add_column("side", no_wrap=True)
    for heading in ("seconds", "samples/s", f"{ours} is", "min", "max"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, row in result["sides"].items():
        table.add_row(
            name,
            f"{row['seconds_median']:.3g}",
            f"{row['per_second']:,.0f}",
            f"{row['times_as_fast']:.2f}x",
            *(f"{row[f'times_as_fast_{which}']:.2f}x" for which in ("min", "max")),
        )
    return table


def chosen(ready: Mapping[str, Any]) -> str:
    """Returns which trainer fedmoe took, in brackets; nothing for a peer."""
    choice = ready.get("trainer")
    if choice is None:
        return ""
    return f" ({choice['width']} clients stacked)" if choice["kind"] == "stacked" else f" (loop, {choice['layout']})"


if __name__ == "__main__":
    main()
