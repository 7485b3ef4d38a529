"""The command line: one simulation, many of them, and what came out."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fedmoe.errors import FedmoeError

__all__ = ["main", "told_in_a_line"]

# What an argument is, each command's own text tells: typer 0.20 loses an argument's help with click 8.5.
cli = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@cli.callback()
def about() -> None:
    """Federated mixtures of experts on Flower."""


@cli.command()
def run(
    simulation: Annotated[Path, typer.Argument()],
    run_config: Annotated[
        list[str] | None, typer.Option("--run-config", "-c", help='as flwr run: "key=value ..." or a TOML file')
    ] = None,
    resume: Annotated[Path | None, typer.Option(help="run folder to go on with")] = None,
    nodes: Annotated[int, typer.Option(min=0, help="SuperNodes in this process; 0: two, or one a GPU")] = 0,
) -> None:
    """Run SIMULATION in this process: no Ray, no SuperLink; same settings, same numbers as `flwr run`.

    SIMULATION: the folder of a Flower app, such as simulations/quickstart.
    """
    from fedmoe.flower.local_run import run_locally

    run_locally(simulation, run_config or [], resume, nodes)


@cli.command()
def sweep(
    simulation: Annotated[Path, typer.Argument()],
    over: Annotated[list[str], typer.Option(help='the grid: "gate.name=mlp,random seed=0..4"')],
    output: Annotated[
        Path | None,
        typer.Option(
            help="folder for all runs; the same one again goes on where it was left; when not given, one for these "
            "settings in ~/fedmoe-runs/sweeps, or in output-dir",
            show_default=False,
        ),
    ] = None,
    run_config: Annotated[
        list[str] | None, typer.Option("--run-config", "-c", help='for all runs: "key=value ..." or a TOML file')
    ] = None,
    jobs: Annotated[int, typer.Option(min=0, help="runs at a time; 0: one a core, one where there is a GPU")] = 0,
) -> None:
    """Run SIMULATION for every combination of some settings, and compare; what is done already is skipped.

    SIMULATION: the folder of a Flower app, such as simulations/quickstart.
    """
    from fedmoe.sweep.command import run_sweep

    run_sweep(simulation, over, output.absolute() if output else None, run_config or [], jobs)


@cli.command()
def report(run_folder: Annotated[Path, typer.Argument()]) -> None:
    """Write the report.html of RUN_FOLDER, the folder of a run, again."""
    from fedmoe.recording.report import write_report

    Console().print(str(write_report(run_folder.absolute())), soft_wrap=True, highlight=False)


@cli.command()
def compare(
    run_folders: Annotated[list[Path], typer.Argument()],
    markdown: Annotated[bool, typer.Option(help="print a Markdown table")] = False,
    against: Annotated[
        str, typer.Option(help="the row that differences are to, by how it begins: 'FedAvg, with'")
    ] = "",
    csv: Annotated[Path | None, typer.Option(help="file for a line a row and seed")] = None,
    figure: Annotated[Path | None, typer.Option(help="file (.svg, .png, .pdf) for accuracy over bytes sent")] = None,
) -> None:
    """Print the methods of several runs side by side: mean and deviation over seeds, differences paired by seed.

    RUN_FOLDERS: folders of runs, of one or several seeds, or folders with runs below, such as a sweep's.
    """
    from fedmoe.recording.comparison import compare_runs, compared_notes
    from fedmoe.recording.comparison_table import comparison_table, to_csv, to_markdown
    from fedmoe.recording.found_runs import find_runs

    paths, unfinished = find_runs(run_folders)
    rows = compare_runs(paths)
    if markdown:
        Console(soft_wrap=True).print(to_markdown(rows, against), highlight=False, markup=False)
    else:
        console = Console()
        console.print(comparison_table(rows, against))
    notes = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    for note in compared_notes(paths):
        notes.print(f"note: {note}")
    if unfinished:
        notes.print(f"left out, not finished: {', '.join(map(str, unfinished))}")
    for file in (csv, figure):
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
    if csv is not None:
        csv.write_text(to_csv(rows))
        notes.print(f"{csv}: a line a row and seed")
    if figure is not None:
        from fedmoe.recording.comparison_figure import draw_comparison

        draw_comparison(paths).savefig(figure)
        notes.print(f"{figure}: accuracy over bytes sent, mean over seeds; the bands are the seeds' least and most")


@cli.command()
def personalize(
    run_folder: Annotated[Path, typer.Argument()],
    images: Annotated[Path | None, typer.Option(help="your pictures: a folder, or a tar archive")] = None,
    client: Annotated[int | None, typer.Option(help="an unseen client of the run, from 0; without --images: 0")] = None,
    method: Annotated[str, typer.Option(help="a method of the run, such as a baseline; empty: the main one")] = "",
    samples: Annotated[int, typer.Option(min=0, help="serve so many of the images, by lot; 0: all")] = 0,
    seed: Annotated[int | None, typer.Option(help="of that lot; the run's when not given")] = None,
    output: Annotated[Path | None, typer.Option(help="the page; when not given, in RUN_FOLDER/personalized")] = None,
) -> None:
    """Serve a fresh client by a trained pool: rank on unlabelled images, fetch the best K experts, write a page.

    RUN_FOLDER: of the run that trained the pool; it may have been cut off.
    """
    from fedmoe.personal.command import run_personalize

    run_personalize(run_folder, images, client, method, samples, seed, output)


def main() -> None:
    """Runs the command line."""
    with told_in_a_line():
        cli()


@contextlib.contextmanager
def told_in_a_line() -> Iterator[None]:
    """Makes a failure that fedmoe explains itself one line on the error stream, and exit status 2."""
    try:
        yield
    except FedmoeError as error:
        Console(stderr=True).print(f"fedmoe: {error}", style="red", soft_wrap=True, highlight=False, markup=False)
        sys.exit(2)
