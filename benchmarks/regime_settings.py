"""The settings of the map's runs, from a command's words."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.regime_grid import REGIMES, Part, parts_of
from fedmoe.errors import SettingsError
from fedmoe.flower.local_run import given_keys, read_config

__all__ = ["SIMULATION", "chosen", "config_of"]

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


def chosen(only: str, roots: tuple[str, str], more: Sequence[str]) -> list[str]:
    """Returns the names of the regimes that a regular expression fits, in the map's order.

    Args:
        only: searched for in the names; empty: all.
        roots: `data.root` of Fashion-MNIST and of CIFAR-10's pictures.
        more: settings of all runs, over the map's own.

    Raises:
        SettingsError: it fits none, or one that needs CIFAR-10's pictures, whose place is not told.
    """
    names = [name for name in REGIMES if re.search(only, name)]
    if not names:
        raise SettingsError(f"--only must fit a regime's name, got '{only}'; hint: one of {', '.join(REGIMES)}")
    for name in names:
        config = config_of(parts_of(REGIMES[name], 0, *roots)[0], more)
        if config["data.name"] == "three_sources" and not config["data.root"]:
            raise SettingsError(f"--cifar must name CIFAR-10's pictures for '{name}', got ''; hint: a folder or a tar")
    return names
