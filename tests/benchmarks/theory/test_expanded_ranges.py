"""The experiment on expanded ranges, small: ranges grow, and the loss is lower with them than without."""

import pytest

from benchmarks.theory.classification import num_parameters, task_of
from benchmarks.theory.expanded_ranges import EXPERIMENT, UNITS, equal_units
from fedmoe.moe.activations import ACTIVATIONS
from fedmoe.moe.experts.expanded import ExpandedExpert
from fedmoe.references import load_plugin


@pytest.mark.parametrize("name", ["xgelu", "xsilu", "xatlu"])
def test_a_learnt_range_grows_and_lowers_the_loss_of_a_short_training(name: str) -> None:
    for seed in (0, 1):
        expanded, plain = (EXPERIMENT.measure(row, seed, True) for row in (name, name.removeprefix("x")))
        assert expanded["digits range"] > 0.05
        assert expanded["digits loss"] < plain["digits loss"] - 0.002
        assert plain["digits accuracy"] > 90
        assert "digits range" not in plain
        assert expanded["digits parameters"] == plain["digits parameters"] + 1


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_all_activations_have_about_as_many_parameters(activation: str) -> None:
    spec = task_of("digits").spec
    width = equal_units(task_of("digits"), activation, UNITS)
    made = load_plugin("expert", "fedmoe.moe.experts", "expanded")
    assert made is ExpandedExpert
    ours = num_parameters(ExpandedExpert(type(spec)(**{**vars(spec), "width": width}), activation=activation))
    assert abs(ours - (UNITS * (64 + 1 + 10) + 10)) <= 0.01 * UNITS * 75
