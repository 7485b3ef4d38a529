"""Several gates on the server: which one a client gets."""

from dataclasses import replace

import numpy as np
import pytest

from fedmoe.errors import RoundError
from fedmoe.federation.heads import HEADS, KEYS, gate_of, head_for, nearest
from fedmoe.federation.state import ServerState, moving_average


def state(seed: int = 0) -> ServerState:
    rng = np.random.default_rng(seed)
    gate, heads, keys = (rng.standard_normal(shape).astype(np.float32) for shape in (3, (4, 3), (4, 5)))
    return ServerState(gate=gate, experts=(gate,), extras={HEADS: heads, KEYS: keys})


@pytest.mark.parametrize("seed", range(5))
def test_the_nearest_head_is_that_of_the_smallest_distance(seed: int) -> None:
    rng = np.random.default_rng(seed)
    keys_HD, mean_D = rng.standard_normal((6, 4)), rng.standard_normal(4)
    by_hand = min(range(6), key=lambda row: float(np.linalg.norm(keys_HD[row] - mean_D)))
    assert nearest(keys_HD, mean_D) == by_hand
    assert nearest(keys_HD, keys_HD[3]) == 3
    keys_HD[by_hand] = np.nan
    others = [row for row in range(6) if row != by_hand]
    assert nearest(keys_HD, mean_D) == min(others, key=lambda row: float(np.linalg.norm(keys_HD[row] - mean_D)))


def test_where_nobody_has_trained_a_head_none_is_the_nearest() -> None:
    with pytest.raises(RoundError, match="no head has been trained"):
        nearest(np.full((2, 3), np.nan), np.zeros(3))


def test_a_head_that_is_known_is_taken_and_without_heads_it_is_the_gate() -> None:
    own = state()
    assert head_for(own.extras, 2, own.extras[KEYS][1]) == 2
    assert head_for(own.extras, -1, own.extras[KEYS][1]) == 1
    assert head_for({}, -1, own.extras[KEYS][1]) == -1
    np.testing.assert_array_equal(gate_of(own, 2), own.extras[HEADS][2])
    np.testing.assert_array_equal(gate_of(own, -1), own.gate)
    for missing in (replace(own, extras={}), own):
        with pytest.raises(ValueError, match="there must be a head 4"):
            gate_of(missing, 4)


def test_the_moving_average_takes_the_heads_along() -> None:
    one, two = state(1), state(2)
    mean = moving_average(one, two, 0.75)
    np.testing.assert_allclose(mean.extras[HEADS], 0.75 * one.extras[HEADS] + 0.25 * two.extras[HEADS], rtol=1e-6)
    np.testing.assert_array_equal(mean.extras[KEYS], two.extras[KEYS])
    first = moving_average(replace(one, extras={}), two, 0.75)
    np.testing.assert_array_equal(first.extras[HEADS], two.extras[HEADS])
