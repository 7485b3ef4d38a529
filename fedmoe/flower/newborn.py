"""New experts in the midst of a run, for a strategy that replaces some."""

from fedmoe.flower.preparation import Preparation
from fedmoe.moe.construction import build_expert
from fedmoe.moe.vectors import Vector, parts_of
from fedmoe.training.keeping import HEAD

__all__ = ["STARTS", "newborn_expert"]

STARTS = ("head", "random", "common")


def newborn_expert(preparation: Preparation, start: str, incumbent: Vector) -> Vector:
    """Returns an expert that has not been trained in the place that it is for; same seed, same bytes.

    Args:
        preparation: the run's.
        start: where it starts: `"random"`; `"common"`, as the common expert; `"head"`: as the incumbent, but for a
            random last layer, so that what the incumbent sees in its inputs stays, and what it calls them goes;
            empty: as `experts.init` says.
        incumbent: the expert whose place it is for.

    Raises:
        SettingsError: it shall start from a common expert of another backbone.
    """
    if start != "head":
        return preparation.initial_state(1, False, start).experts[0]
    fresh, mixed = preparation.initial_state(1, False, "random").experts[0], incumbent.copy()
    for part in parts_of(build_expert(preparation.settings.experts.model, preparation.spec, 0)):
        if part.name.startswith(HEAD):
            own = slice(part.offset, part.offset + part.size)
            mixed[own] = fresh[own]
    return mixed
