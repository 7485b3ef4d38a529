"""The settings of the map's runs, from a command's words."""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.regime_grid import REGIMES, Part, parts_of
from fedmoe.errors import SettingsError
from fedmoe.flower.local_run import given_keys, read_config

__all__ = ["SIMULATION", "chosen", "config_of", "map_parser"]

SIMULATION = Path(__file__).parent.parent / "simulations" / "fashion_mnist"


def config_of(part: Part, more: Sequence[str]) -> dict[str, Any]:
    """Returns the run's flat settings: the simulation's, over them the part's, over them `more`.

    Args:
        part: of the map.
        more: as `fedmoe run --run-config` takes them.
    """
    _, base = read_config(SIMULATION, ())
    _, given = read_config(SIMULATION, more)
    return {**base, **part.settings, **{key: given[key] for key in given_keys(more)}}


def chosen(only: str, roots: tuple[str, str], more: Sequence[str], to_train: bool = True) -> list[str]:
    """Returns the names of the regimes that a regular expression fits, in the map's order.

    Args:
        only: searched for in the names; empty: all.
        roots: `data.root` of Fashion-MNIST and of CIFAR-10's pictures.
        more: settings of all runs, over the map's own.
        to_train: whether their data are needed.

    Raises:
        SettingsError: it fits none, or one that needs CIFAR-10's pictures, whose place is not told.
    """
    names = [name for name in REGIMES if re.search(only, name)]
    if not names:
        raise SettingsError(f"--only must fit a regime's name, got '{only}'; hint: one of {', '.join(REGIMES)}")
    for name in names:
        config = config_of(parts_of(REGIMES[name], 0, *roots)[0], more)
        if to_train and config["data.name"] == "three_sources" and not config["data.root"]:
            raise SettingsError(f"--cifar must name CIFAR-10's pictures for '{name}', got ''; hint: a folder or a tar")
    return names


def map_parser(name: str, about: str, only: str = "") -> argparse.ArgumentParser:
    """Returns the parser of a command that goes over the map's regimes and seeds.

    Args:
        name: the command's module.
        about: what it does.
        only: which regimes, unless told.
    """
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=about)
    parser.add_argument("--seeds", default="10..14", help="as 10..14")
    parser.add_argument("--only", default=only, help="regular expression for the names of regimes")
    parser.add_argument("--fashion", default="", help="data.root of Fashion-MNIST")
    parser.add_argument(
        "--cifar", default="", help="data.root of CIFAR-10's pictures, for the regimes with three sources"
    )
    parser.add_argument("-c", "--run-config", action="append", default=[], help="settings over the map's own")
    return parser
