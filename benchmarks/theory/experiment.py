"""What an experiment is: rows and seeds that are measured one by one, a table of what came out, and a picture.

A module of this package measures one system's claim. It describes itself by an `Experiment` and hands it to `main`:
`python -m benchmarks.theory.NAME --output DIR --seeds 0..4`, with a bar while it runs. `--small` is what the tests run.
"""

import argparse
import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.markdown import Markdown
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.seeds import seeds_of

__all__ = ["Experiment", "Figures", "Results", "main", "markdown", "measured", "write_csv"]

Figures = Mapping[str, float]
"""What one run of a row comes to: name of the figure -> value."""
Results = Mapping[str, Sequence[Figures]]
"""Row -> its figures, a seed each."""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One system's experiment.

    Attributes:
        name: of its module, and of the files that it writes.
        title: what the table is called.
        rows: names of what is compared, in the table's order.
        measure: (row, seed, small) -> what came out; the same for the same arguments.
        draw: draws the results into a figure.
        digits: decimals of the table; of single figures where they differ from 2.
        columns: figure -> heading, in the table's order; what is not named is in the CSV only.
    """

    name: str
    title: str
    rows: Sequence[str]
    measure: Callable[[str, int, bool], Figures]
    draw: Callable[[Results, Figure], None]
    columns: Mapping[str, str]
    digits: Mapping[str, int]


def measured(experiment: Experiment, seeds: Sequence[int], small: bool, console: Console) -> Results:
    """Returns every row's figures for every seed, row after row, with a bar on the console."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    results: dict[str, list[Figures]] = {row: [] for row in experiment.rows}
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(experiment.title, total=len(experiment.rows) * len(seeds))
        for seed in seeds:
            for row in experiment.rows:
                progress.update(task, description=f"{row}, seed {seed}")
                results[row].append(experiment.measure(row, seed, small))
                progress.advance(task)
    return results


def markdown(experiment: Experiment, results: Results) -> str:
    """Returns the table: mean and standard deviation (of the sample, over seeds) of each figure of each row."""
    heads = list(experiment.columns.values())
    lines = [f"| {experiment.title} | {' | '.join(heads)} |", "|---|" + "--:|" * len(heads)]
    for row, runs in results.items():
        by_name = {name: [run[name] for run in runs if name in run] for name in experiment.columns}
        cells = [cell(values, experiment.digits.get(name, 2)) for name, values in by_name.items()]
        lines.append(f"| {row} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def cell(values: Sequence[float], digits: int) -> str:
    """Returns mean and standard deviation as text; of one value the value, of none a dash.

    >>> cell([1.0, 2.0], 1), cell([1.0], 1), cell([], 1)
    ('1.5 ± 0.7', '1.0', '-')
    """
    if not values:
        return "-"
    mean = f"{np.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {np.std(values, ddof=1):.{digits}f}"


def write_csv(path: Path, seeds: Sequence[int], results: Results) -> None:
    """Writes every single figure: row, seed, figure, value."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("row", "seed", "figure", "value"))
        for row, runs in results.items():
            for seed, run in zip(seeds, runs, strict=True):
                writer.writerows((row, seed, name, repr(float(value))) for name, value in run.items())


def main(experiment: Experiment, arguments: Sequence[str] | None = None) -> Results:
    """Runs an experiment's command; returns what came out.

    Args:
        experiment: which.
        arguments: of the command; `None`: the process's.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.theory.{experiment.name}", description=experiment.title
    )
    parser.add_argument("--output", type=Path, required=True, help="folder of table, CSV and picture")
    parser.add_argument("--seeds", type=seeds_of, default=seeds_of("0..4"), help="as 0..4")
    parser.add_argument("--small", action="store_true", help="a smaller version, to try it")
    parser.add_argument("--threads", type=int, default=1, help="of torch; another number changes the last bits")
    asked = parser.parse_args(arguments)
    torch.set_num_threads(asked.threads)
    console = Console()
    results = measured(experiment, asked.seeds, asked.small, console)
    asked.output.mkdir(parents=True, exist_ok=True)
    table, name = markdown(experiment, results), f"{experiment.name}-small" if asked.small else experiment.name
    (asked.output / f"{name}.md").write_text(table)
    write_csv(asked.output / f"{name}.csv", asked.seeds, results)
    with matplotlib.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(8, 4.5), layout="constrained")
        experiment.draw(results, figure)
        figure.savefig(asked.output / f"{name}.png", dpi=150)
    console.print(Markdown(table))
    if asked.small:
        console.print("the small version, to try the command: its figures show nothing")
    console.print(f"written to {asked.output}", soft_wrap=True)
    return results
