"""What all experts have in common stays alike, and is the average of every copy."""

from fractions import Fraction

import numpy as np
import pytest
from torch import nn

from fedmoe.federation.shared import alike, places_of
from fedmoe.federation.state import ServerState
from fedmoe.moe.vectors import parts_of

PLACES = [slice(0, 2), slice(5, 6)]
SHARED = np.array([True, True, False, False, False, True, False])


def state(seed: int, experts: int = 4) -> ServerState:
    rng = np.random.default_rng(seed)
    pool = tuple(rng.standard_normal(7).astype(np.float32) for _ in range(experts))
    return ServerState(gate=rng.standard_normal(3).astype(np.float32), experts=pool, extras={"x": np.ones(2)})


@pytest.mark.parametrize("seed", range(3))
def test_the_copies_are_alike_and_the_rest_keeps_its_bytes(seed: int) -> None:
    before = state(seed)
    kept = [expert.copy() for expert in before.experts]
    after = alike(before, PLACES, {0: 3, 1: 0, 2: 5, 3: 1})
    for old, new, given in zip(kept, after.experts, before.experts, strict=True):
        assert np.array_equal(new[~SHARED], old[~SHARED])
        assert np.array_equal(new[SHARED], after.experts[0][SHARED])
        assert np.array_equal(given, old), "the state that it was given has changed"
    for place in np.flatnonzero(SHARED):
        mean = sum(Fraction(float(kept[i][place])) * w for i, w in ((0, 3), (2, 5), (3, 1))) / 9
        assert after.experts[1][place] == np.float32(float(mean))
    assert after.gate is before.gate
    assert after.extras is before.extras


def test_what_is_alike_stays_so() -> None:
    once = alike(state(0), PLACES, {0: 1})
    again = alike(once, PLACES, {0: 2, 1: 7, 2: 1, 3: 3})
    for one, two in zip(once.experts, again.experts, strict=True):
        assert one.tobytes() == two.tobytes()


def test_where_nothing_came_back_or_nothing_is_shared_nothing_changes() -> None:
    before = state(1)
    assert alike(before, PLACES, {0: 0, 1: 0}) is before
    assert alike(before, [], {0: 1}) is before


def test_places_are_those_whose_names_fit() -> None:
    parts = parts_of(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1)))
    assert places_of(parts, ("1.*",)) == [slice(9, 12), slice(12, 13)]
    assert places_of(parts, ("*.bias", "0.weight")) == [slice(0, 6), slice(6, 9), slice(12, 13)]
    assert places_of(parts, ()) == []
