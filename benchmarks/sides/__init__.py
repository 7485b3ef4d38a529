"""The sides: each does a work's rounds in its own way and its own process; by name, imported only when asked for."""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.workloads import Work

__all__ = ["SIDES", "MissingLibraryError", "Rounds", "Serve", "Side", "run_side"]


class MissingLibraryError(ImportError):
    """A side's library is not installed."""


@dataclass(frozen=True)
class Rounds:
    """A side that is ready.

    Attributes:
        train: does exactly one round and returns how many samples were trained on, each counted once.
        weights: gives a copy of the server's model (of the gate too, and of all experts) as one flat array.
        facts: what a reader of the record must know of this side; read after the warm-up.
    """

    train: Callable[[], int]
    weights: Callable[[], NDArray[np.float32]]
    facts: Mapping[str, Any] = field(default_factory=dict)


Serve = Callable[[Rounds], None]
"""Has a ready side do rounds, and returns when no more are wanted. The side calls it, since some must be in charge."""


@dataclass(frozen=True)
class Side:
    """How a side is run.

    Attributes:
        library: whose rounds these are; it is imported first, as by those who use it.
        module: `benchmarks.sides.MODULE`, whose `run(work, threads, serve, **arguments)` does the work.
        arguments: of `run`.
        about: a few words for the table.
        mixture: whether it does FedJETs rounds.
        averaging: whether it does federated averaging.
    """

    library: str
    module: str
    about: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    mixture: bool = False
    averaging: bool = True

    def fits(self, work: Work) -> bool:
        """Returns whether the side does this kind of work."""
        return self.mixture if work.is_mixture else self.averaging


SIDES: dict[str, Side] = {
    "fedmoe": Side("fedmoe", "fedmoe_round", "fedmoe as it comes", {"trainer": "auto"}, mixture=True),
    "fedmoe-compiled": Side(
        "fedmoe", "fedmoe_round", "fedmoe, as in a long run", {"trainer": "auto", "compiling": "on"}, mixture=True
    ),
    "fedmoe-process": Side(
        "fedmoe", "fedmoe_round", "fedmoe, one process", {"trainer": "auto", "in_processes": False}, mixture=True
    ),
    "fedmoe-usual": Side(
        "fedmoe", "fedmoe_round", "fedmoe, ReLU before pooling", {"trainer": "auto", "usual_order": True}
    ),
    "fedmoe-loop": Side("fedmoe", "fedmoe_round", "fedmoe, client after client", {"trainer": "loop"}, mixture=True),
    "fedmoe-stacked": Side("fedmoe", "fedmoe_round", "fedmoe, clients stacked", {"trainer": "stacked"}, mixture=True),
    "flower": Side("flwr", "flower_ray", "Flower, a client a SuperNode, on Ray", mixture=True),
    "pfl": Side("pfl", "pfl_research", "pfl-research, simulated backend", {"bf16": False}),
    "pfl-bf16": Side("pfl", "pfl_research", "pfl-research with its autocast to bf16", {"bf16": True}),
    "loop": Side("torch", "plain_loop", "a plain torch loop, client after client", mixture=True),
    "centralised": Side(
        "torch", "centralised", "the floor: no federation, channels-last", {"layout": "channels-last"}, mixture=True
    ),
    "centralised-contiguous": Side(
        "torch", "centralised", "the same, contiguous layout", {"layout": "contiguous"}, mixture=True
    ),
}


def run_side(name: str, work: Work, threads: int, serve: Serve) -> None:
    """Builds a side, hands it to `serve`, and ends all that it has started when `serve` returns.

    Raises:
        MissingLibraryError: its library is not installed.
    """
    side = SIDES[name]
    try:
        importlib.import_module(side.library)
    except ModuleNotFoundError as error:
        raise MissingLibraryError(
            f"the side '{name}' needs the package '{side.library}', which must be installed, got: {error}; "
            "hint: uv run --group benchmarks, on Python 3.11 or 3.12"
        ) from error
    module = importlib.import_module(f"benchmarks.sides.{side.module}")
    module.run(work, threads, serve, **side.arguments)
