"""The small version of the life cycle's experiment: drift is found, the expert replaced, and nothing else happens."""

import numpy as np
import pytest

from benchmarks.theory.free_agent import events_of, first_reaching, measure


def test_a_drifting_expert_is_found_and_replaced_and_nobody_else_is_accused() -> None:
    with_cycle, without = (measure(row, 0, True) for row in ("FedPrints, life cycle", "FedPrints"))
    assert with_cycle["before"] == without["before"], "until the drift both are one run"
    assert with_cycle["after/1"] == without["after/1"] < 0.3 * with_cycle["before"]
    assert 1 <= with_cycle["found"] <= 4
    assert with_cycle["found"] + 3 <= with_cycle["replaced"] <= 12
    assert with_cycle["recovered"] <= 14
    assert (with_cycle["early"], with_cycle["others"]) == (0, 0)
    assert with_cycle["down"] > without["down"], "a candidate has to be sent"
    assert "found" not in without


@pytest.mark.parametrize("over", ["FedJETs", "FedPrints"])
def test_without_drift_there_is_no_alarm(over: str) -> None:
    assert measure(f"{over}, life cycle, no drift", 0, True) == {"alarms": 0.0}


@pytest.mark.parametrize("seed", range(5))
def test_a_figure_is_reached_where_it_stays(seed: int) -> None:
    figures = np.random.default_rng(seed).random(40).tolist()
    found = first_reaching(figures, 0.4)
    by_hand = [n + 1 for n in range(38) if all(figure >= 0.4 for figure in figures[n : n + 3])]
    assert found == by_hand[0] if by_hand else np.isnan(found)


def test_events_are_told_in_their_order() -> None:
    lines = [
        {"round": 1, "life_cycle": {"events": [[2, "alarm"]]}},
        {"round": 2},
        {"round": 3, "life_cycle": {"events": [[2, "replaced"], [0, "alarm"]]}},
    ]
    assert events_of(lines) == [(1, 2, "alarm"), (3, 2, "replaced"), (3, 0, "alarm")]
