"""Tensors that all experts have in common: every expert's vector has a copy, and the server keeps the copies alike."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

import numpy as np

from fedmoe.federation.state import ServerState
from fedmoe.moe.vectors import Part

__all__ = ["alike", "places_of"]


def places_of(parts: Sequence[Part], patterns: Sequence[str]) -> list[slice]:
    """Returns where the tensors lie in an expert's vector whose names one of the patterns fits.

    Args:
        parts: of an expert.
        patterns: as `stem.*`.
    """
    return [
        slice(part.offset, part.offset + part.size)
        for part in parts
        if any(fnmatchcase(part.name, pattern) for pattern in patterns)
    ]


def alike(state: ServerState, places: Sequence[slice], weights: Mapping[int, int]) -> ServerState:
    """Returns the state with the same values at these places in all experts: the weighted mean of those that weigh.

    With the weights of those clients whose copies an expert is the average of, it is the average of all copies. An
    expert that weighs nothing gets the values too, and keeps its others.

    Args:
        state: experts in whose vectors the places lie.
        places: of what is shared; empty: nothing is.
        weights: expert id -> its weight; where all are 0 the state is returned as it is.
    """
    total = sum(weights.values())
    if not places or total == 0:
        return state
    experts = [expert.copy() for expert in state.experts]
    for place in places:
        mean = np.sum([weight * state.experts[i][place].astype(np.float64) for i, weight in weights.items()], axis=0)
        for expert in experts:
            expert[place] = (mean / total).astype(np.float32)
    return replace(state, experts=tuple(experts))
