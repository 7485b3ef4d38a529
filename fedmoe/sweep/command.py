"""`fedmoe sweep`: the runs of a grid, what became of each, and their comparison."""

import json
import shlex
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from fedmoe.errors import SettingsError, SweepError
from fedmoe.flower.devices import usable_cores, visible_gpus
from fedmoe.flower.local_run import check_keys, read_config
from fedmoe.flower.methods import methods_of, tables_of
from fedmoe.flower.plugin_check import check_plugins
from fedmoe.recording.comparison import compare_runs, compared_notes
from fedmoe.recording.comparison_table import comparison_table
from fedmoe.recording.found_runs import find_runs
from fedmoe.recording.wording import method_title, percent
from fedmoe.settings import from_flat
from fedmoe.sweep.grid import Point, points_of
from fedmoe.sweep.place import Place, folder_of, sweep_folder
from fedmoe.sweep.running import Told, run_all

__all__ = ["places_of", "run_sweep"]


def run_sweep(
    simulation: Path, over: Sequence[str], output: Path | None, overrides: Sequence[str], jobs: int = 0
) -> None:
    """Does every run of the grid that is not done yet, tells what becomes of each, and prints the comparison.

    Args:
        simulation: folder of a Flower app.
        over: the grid, as `points_of` reads it.
        output: folder that gets a folder for each run; the same one again goes on where it was left; `None`: as
            `sweep_folder` says, so that the same command goes on.
        overrides: settings of all runs, as `fedmoe run --run-config` takes them.
        jobs: runs at a time; 0: one a core, or one where there is a GPU. Each gets its share of the cores.

    Raises:
        SettingsError: the grid or a setting is wrong; nothing has been run then.
        RunFolderError: runs of other settings stand in `output`.
        SweepError: some runs failed; the others are done.
    """
    _, base = read_config(simulation, overrides)
    if output is None:
        output = sweep_folder(simulation.resolve().name, read_config(simulation, ())[1], base)
    jobs = jobs or (1 if visible_gpus(from_flat(base).train.device) else usable_cores())
    places = places_of(simulation, over, output, overrides, jobs)
    console = Console()
    console.print(f"runs go to {output}", soft_wrap=True, highlight=False, markup=False)
    with Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
    ) as progress:
        task = progress.add_task(f"{len(places)} runs, {min(jobs, len(places))} at a time", total=len(places))

        def tell(told: Told) -> None:
            if told.what in ("skipped", "done", "failed"):
                progress.advance(task)
            progress.console.print(sentence(told), soft_wrap=True, highlight=False, markup=False)

        failed = run_all(simulation, places, jobs, tell)
    finished = [folder for place in places if (folder := place.done()) is not None]
    if finished:
        rows = compare_runs(finished)
        console.print(comparison_table(rows))
        for note in compared_notes(finished):
            console.print(f"note: {note}", soft_wrap=True, highlight=False, markup=False)
        alone = set(find_runs([output])[0]) == set(finished)
        named = [output] if alone else finished
        words = ["fedmoe", "compare", *map(str, named), "--against", f"{rows[0].method}, {rows[0].prediction}"]
        console.print(shlex.join(words), soft_wrap=True, highlight=False, markup=False)
    if failed:
        logs = ", ".join(str(place.log) for place in failed)
        raise SweepError(f"{len(failed)} of {len(places)} runs failed; hint: their last words stand in {logs}")


def places_of(simulation: Path, over: Sequence[str], output: Path, overrides: Sequence[str], jobs: int) -> list[Place]:
    """Returns the place of each run; all settings are checked before anything runs.

    An argument of a strategy is set where a run has that strategy; points that are the same without it are one run.

    Raises:
        SettingsError: the grid or a setting is wrong.
        RunFolderError: a run of other settings stands in one of the places.
    """
    _, base = read_config(simulation, overrides)
    places: dict[Point, Place] = {}
    points = points_of(over)
    for whole in points:
        check_keys(dict(whole.settings), base)
        settings = from_flat({**base, **dict(whole.settings)})
        check_plugins(settings)
        point = whole.for_strategies({table for method in methods_of(settings) for table in tables_of(method)})
        if point in places:
            continue
        config = {**base, **dict(point.settings)}
        if jobs > 1 and not config.get("train.workers"):
            config["train.workers"] = max(1, usable_cores() // jobs)
        places[point] = Place(point, config, folder_of(output, point))
        places[point].check()
    _check_all_count(points, list(places))
    return list(places.values())


def _check_all_count(points: Sequence[Point], kept: Sequence[Point]) -> None:
    """Refuses an argument of a strategy that no run of the grid has: its values would be the same run."""
    asked, counts = ({key for point in some for key, _ in point.settings} for some in (points, kept))
    if lost := sorted(asked - counts):
        table = lost[0].split(".")[1]
        raise SettingsError(
            f"--over must set arguments of strategies that some run has, got '{lost[0]}'; hint: strategy.name={table}"
        )


def sentence(told: Told) -> str:
    """Returns what is told of a run, in a line."""
    name, folder = told.place.point.name, told.place.done() if told.what in ("done", "skipped") else None
    if told.what == "failed":
        return f"{name}: FAILED after {told.seconds:.0f} s, see {told.place.log}"
    if folder is None:
        return f"{name}: {told.what}"
    summary = json.loads((folder / "summary.json").read_text())
    accuracy = percent(summary["unseen"]["accuracy_mean"])
    when = "done before" if told.what == "skipped" else f"done in {told.seconds:.0f} s"
    return f"{name}: {when}, {method_title(summary['strategy'])} {accuracy} on unseen clients"
