"""The command line: `fedmoe run` in process, `fedmoe report`."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fedmoe.errors import FedmoeError

__all__ = ["main"]

cli = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@cli.callback()
def about() -> None:
    """Federated mixtures of experts on Flower."""


@cli.command()
def run(
    simulation: Annotated[Path, typer.Argument(help="folder of a Flower app, such as simulations/quickstart")],
    run_config: Annotated[
        list[str] | None, typer.Option("--run-config", "-c", help='as flwr run: "key=value ..." or a TOML file')
    ] = None,
    resume: Annotated[Path | None, typer.Option(help="run folder to go on with")] = None,
    nodes: Annotated[int, typer.Option(min=0, help="SuperNodes in this process; 0: two, or one a GPU")] = 0,
) -> None:
    """Run a simulation in this process: no Ray, no SuperLink; same settings, same numbers as `flwr run`."""
    from fedmoe.flower.local_run import run_locally

    run_locally(simulation, run_config or [], resume, nodes)


@cli.command()
def report(run_folder: Annotated[Path, typer.Argument(help="a run folder")]) -> None:
    """Write a run's report.html again."""
    from fedmoe.recording.report import write_report

    Console().print(str(write_report(run_folder.absolute())), soft_wrap=True, highlight=False)


@cli.command()
def compare(
    run_folders: Annotated[list[Path], typer.Argument(help="finished run folders, of one or several seeds")],
    markdown: Annotated[bool, typer.Option(help="print a Markdown table")] = False,
) -> None:
    """Print the methods of several runs side by side: mean and standard deviation over seeds."""
    from fedmoe.recording.comparison import compare_runs, comparison_table, to_markdown

    rows = compare_runs([path.absolute() for path in run_folders])
    if markdown:
        Console(soft_wrap=True).print(to_markdown(rows), highlight=False, markup=False)
    else:
        Console().print(comparison_table(rows))


def main() -> None:
    """Runs the command line; a failure that fedmoe explains itself is one line on the error stream, exit status 2."""
    try:
        cli()
    except FedmoeError as error:
        Console(stderr=True).print(f"fedmoe: {error}", style="red", soft_wrap=True, highlight=False, markup=False)
        sys.exit(2)
