"""The settings of the map's runs, from a command's words."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.regime_grid import Part
from fedmoe.flower.local_run import given_keys, read_config

__all__ = ["SIMULATION", "config_of"]

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
