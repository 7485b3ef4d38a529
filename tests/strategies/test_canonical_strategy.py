"""Canonical gates over other strategies: no other function for an average, another one for a median."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedmoe.errors import SettingsError
from fedmoe.federation.state import ServerState
from fedmoe.flower.methods import methods_of
from fedmoe.settings import from_flat
from tests.small import newest_state, rounds_of, run_small, small_config

ADAM = {"train.optimiser": "adamw", "train.learning-rate": 0.01, "train.gate-learning-rate": 0.03}


def run(folder: Path, **arguments: Any) -> tuple[ServerState, float]:
    own = {f"strategy.canonical.{name}": value for name, value in arguments.items() if "." not in name}
    more = {name: value for name, value in arguments.items() if "." in name}
    config = small_config(strategy__name="canonical") | {"gate.name": "softmax"} | own | more
    found = run_small(folder, settings=config)
    return newest_state(found), rounds_of(found)[-1]["evaluate"]["methods"]["zero_shot"]["mean"]


def rows(state: ServerState) -> np.ndarray:
    """The linear gate's rows, slopes and bias, an expert each."""
    assert state.gate is not None
    slopes = state.gate[:-3].reshape(3, -1)
    return np.c_[slopes, state.gate[-3:]]


@pytest.mark.parametrize("settings", [{}, ADAM])
@pytest.mark.parametrize("over", ["fedjets", "fedmix"])
def test_an_average_is_the_same_function_with_and_without(tmp_path: Path, over: str, settings: dict[str, Any]) -> None:
    formed, told = run(tmp_path / "a", over=over, **settings)
    plain, told_plain = run(tmp_path / "b", over=over, form=False, **settings)
    np.testing.assert_allclose(rows(formed).mean(axis=0), 0, atol=1e-5)
    assert np.abs(rows(plain).mean(axis=0)).max() > 1e-3
    np.testing.assert_allclose(rows(formed), rows(plain) - rows(plain).mean(axis=0), atol=2e-4)
    for one, two in zip(formed.experts, plain.experts, strict=True):
        np.testing.assert_allclose(one, two, atol=2e-4)
    assert told == told_plain


def test_sgd_keeps_the_gates_mean_and_adamw_does_not(tmp_path: Path) -> None:
    begun = rows(run(tmp_path / "0", form=False, **{"train.gate-learning-rate": 1e-9})[0]).mean(axis=0)
    sgd, adam = (
        rows(run(tmp_path / name, form=False, **more)[0]).mean(axis=0) - begun
        for name, more in (("sgd", {}), ("adam", ADAM))
    )
    assert np.abs(sgd).max() < 1e-6, "the softmax's gradient adds up to 0 over experts, in each step"
    assert np.abs(adam).max() > 1e-3


def test_a_median_after_adamw_is_another_function_with_and_without(tmp_path: Path) -> None:
    formed, _ = run(tmp_path / "a", gates="median", **ADAM)
    plain, _ = run(tmp_path / "b", gates="median", form=False, **ADAM)
    apart = rows(formed) - rows(formed).mean(axis=0) - (rows(plain) - rows(plain).mean(axis=0))
    assert np.abs(apart).max() > 1e-3


@pytest.mark.parametrize("over", ["fedavg", "fedprints"])
def test_a_strategy_that_trains_no_gate_is_refused(over: str) -> None:
    config = small_config(strategy__name="canonical") | {"strategy.canonical.over": over}
    with pytest.raises(SettingsError, match="clients train a gate"):
        methods_of(from_flat(config))


def test_a_gate_that_has_one_form_alone_is_refused_where_nothing_would_change() -> None:
    config = small_config(strategy__name="canonical", gate__name="relu")
    with pytest.raises(SettingsError, match=r"got gate.name='relu', which has one form alone"):
        methods_of(from_flat(config))
    methods_of(from_flat(config | {"strategy.canonical.gates": "median"}))
    methods_of(from_flat(config | {"gate.name": "softmax"}))
