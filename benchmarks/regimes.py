"""Who wins where, at equal bytes: `python -m benchmarks.regimes --output DIR` trains the map, prints and draws it.

Every regime is trained by each method with each seed; what is done already is not done again.
"""

import argparse
from collections.abc import Container, Mapping, Sequence
from itertools import product
from pathlib import Path
from types import MappingProxyType

from rich.console import Console

from benchmarks.regime_cells import Cell, cells_of, read_csv, write_csv
from benchmarks.regime_grid import METHODS, REGIMES, Part, guest_parts_of, parts_of
from benchmarks.regime_rows import told_cells
from benchmarks.regime_settings import SIMULATION, chosen, config_of, map_parser
from benchmarks.regime_table import draw, markdown
from benchmarks.seeds import seeds_of
from fedmoe.cli import told_in_a_line
from fedmoe.errors import SettingsError, SweepError
from fedmoe.flower.devices import usable_cores
from fedmoe.flower.methods import methods_of
from fedmoe.references import short_name
from fedmoe.settings import from_flat
from fedmoe.sweep.grid import Point
from fedmoe.sweep.place import Place
from fedmoe.sweep.running import Told, run_all

__all__ = ["Runs", "asked_of", "main", "map_of", "runs_of"]


Runs = dict[tuple[str, int], list[tuple[Part, Place]]]
"""What is run of each (regime, seed)."""


def runs_of(
    asked: Sequence[tuple[str, int]],
    output: Path,
    roots: tuple[str, str],
    more: Sequence[str],
    workers: int,
    done: Container[tuple[str, int]] = (),
    guests: Mapping[str, str] = MappingProxyType({}),
) -> Runs:
    """Returns the runs of each (regime, seed), all settings checked.

    Args:
        asked: regimes' names and seeds.
        output: folder of everything.
        roots: `data.root` of Fashion-MNIST and of CIFAR-10's pictures.
        more: settings of all runs, over the map's own.
        workers: processes a run.
        done: (regime, seed) of which only the guests are run.
        guests: name -> reference.
    """
    runs: Runs = {}
    for name, seed in asked:
        parts = [] if (name, seed) in done else parts_of(REGIMES[name], seed, *roots)
        own = []
        for part in [*parts, *guest_parts_of(REGIMES[name], seed, *roots, guests)]:
            config = {**config_of(part, more), "train.workers": workers}
            methods_of(from_flat(config))
            place = Place(Point((("regime", name), ("seed", seed))), config, output / name / f"{part.name}-{seed}")
            place.check()
            own.append((part, place))
        runs[name, seed] = own
    return runs


def map_of(runs: Runs) -> list[Cell]:
    """Returns what the finished runs come to; FedJETs' second start counts where all seeds of a regime have it."""
    cells = []
    for (name, seed), own in runs.items():
        done = [(part, place.done()) for part, place in own]
        needed = [folder for part, folder in done if part.start != "common" and not set(part.methods) - set(METHODS)]
        if all(folder is not None for folder in needed):
            cells += cells_of(name, seed, [(part, folder) for part, folder in done if folder is not None])
    return cells


def known_of(file: Path | None, regimes: Sequence[str], seeds: Sequence[int]) -> list[Cell]:
    """Returns the cells of these regimes and seeds that a map.csv holds; of those that lack a method none."""
    cells = [cell for cell in (read_csv(file) if file else []) if cell.regime in regimes and cell.seed in seeds]
    return told_cells(cells)


def guests_of(references: Sequence[str]) -> dict[str, str]:
    """Returns the names of strategies that are not the map's own, each with its reference.

    Raises:
        SettingsError: one is the map's own, or two have one name.
    """
    guests = {short_name(reference, "strategies"): reference for reference in references}
    if own := sorted(set(guests) & set(METHODS)):
        raise SettingsError(f"--method must name a strategy that is not the map's own, got '{own[0]}'")
    if len(guests) < len(references):
        raise SettingsError(f"each --method must have a name of its own, got {', '.join(references)}")
    return guests


def in_order(cells: Sequence[Cell]) -> list[Cell]:
    """Returns the cells by regime, in the map's order, and seed."""
    order = list(REGIMES)
    return sorted(cells, key=lambda cell: (order.index(cell.regime), cell.seed))


def asked_of(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Returns what the command's words ask for."""
    parser = map_parser("regimes", __doc__ or "")
    parser.add_argument("--output", type=Path, required=True, help="folder of all runs; the same one goes on")
    parser.add_argument("--jobs", type=int, default=0, help="runs at a time; 0: one a core")
    parser.add_argument(
        "--known", type=Path, help="a map.csv: regimes and seeds that stand in it are not trained again"
    )
    parser.add_argument(
        "--method",
        action="append",
        default=[],
        help="one more strategy, by name or reference (/path/file.py:Class), at the same bytes; may be given again; "
        "with --known it alone is trained, where the map is known",
    )
    parser.add_argument("--draw-only", action="store_true", help="train nothing, tell what is there")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command.

    Raises:
        SettingsError: no regime is asked for, one that needs data which are not told, or a setting is wrong.
        SweepError: some runs failed; the others are done.
    """
    asked = asked_of(arguments)
    if asked.known and asked.known.resolve() == (asked.output / "map.csv").resolve():
        raise SettingsError(f"--output would write over what is --known, got {asked.output}; hint: another folder")
    seeds, roots = seeds_of(asked.seeds), (asked.fashion, asked.cifar)
    regimes = chosen(asked.only, roots, asked.run_config, to_train=not asked.draw_only)
    jobs = asked.jobs or usable_cores()
    output = asked.output.absolute()
    known = known_of(asked.known, regimes, seeds)
    done = {(cell.regime, cell.seed) for cell in known}
    guests, workers = guests_of(asked.method), max(1, usable_cores() // jobs)
    wanted = [at for at in product(regimes, seeds) if not (guests and asked.known) or at in done]
    runs = runs_of(wanted, output, roots, asked.run_config, workers, done, guests)
    console = Console()
    failed: list[Place] = []
    if not asked.draw_only:
        places = [place for own in runs.values() for _, place in own]
        failed = run_all(SIMULATION, places, jobs, lambda told: _tell(console, told))
    tell_map(console, in_order([*known, *map_of(runs)]), list(product(regimes, seeds)), output)
    if failed:
        raise SweepError(f"{len(failed)} runs failed; hint: {', '.join(str(place.log) for place in failed)}")


def tell_map(console: Console, cells: Sequence[Cell], asked: Sequence[tuple[str, int]], output: Path) -> None:
    """Writes the cells, prints and draws those of regimes and seeds that are whole, and names the others."""
    output.mkdir(parents=True, exist_ok=True)
    write_csv(cells, output / "map.csv")
    whole = told_cells(cells)
    lack: dict[str, list[int]] = {}
    for name, seed in asked:
        if (name, seed) not in {(cell.regime, cell.seed) for cell in whole}:
            lack.setdefault(name, []).append(seed)
    if whole:
        console.print(markdown(whole), soft_wrap=True, markup=False, highlight=False)
        (output / "map.md").write_text(markdown(whole))
        draw(whole, output / "map.png")
        console.print(f"{output / 'map.md'}, map.csv, map.png", soft_wrap=True)
    if lack:
        text = "; ".join(f"{name} {', '.join(map(str, seeds))}" for name, seeds in lack.items())
        console.print(
            f"left out of table and figure, for not all methods were run (regime and seeds): {text}", soft_wrap=True
        )


def _tell(console: Console, told: Told) -> None:
    console.print(f"{told.place.path.parent.name}/{told.place.path.name}: {told.what} {told.seconds:.0f} s")


if __name__ == "__main__":
    with told_in_a_line():
        main()
