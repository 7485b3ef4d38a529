"""The multinomial logistic mixture's rates in small, and what no gate can tell."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.theory.experiment import main
from benchmarks.theory.softmax_multinomial import EXPERIMENT, KINDS, design, errors_of, start, truth
from fedmoe.federation.logistic_mixture import LogisticMixture
from fedmoe.moe.transform import TRANSFORMS


def test_densities_fall_alike_and_copies_slow_the_parameters_down(tmp_path: Path) -> None:
    results = main(EXPERIMENT, ["--output", str(tmp_path), "--seeds", "0..1", "--small"])
    slope = {row: {name: np.mean([run[name] for run in runs]) for name in runs[0]} for row, runs in results.items()}
    for row, own in slope.items():
        assert -0.7 < own["density"] < -0.35, row
        if "exact" in row:
            assert -0.75 < own["all"] < -0.35, row
            over = row.replace("exact", "over-fit")
            assert slope[over]["all at 100000"] > 4 * own["all at 100000"], row
    assert (tmp_path / "softmax_multinomial-small.png").stat().st_size > 10_000


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("apart", [0.5, 2.0])
def test_copies_of_an_expert_without_slopes_may_lie_apart_under_any_gate(transform: str, apart: float) -> None:
    true = truth(vanishing=True)
    probs = np.exp(true.experts_MCF[0, :, 1])
    probs /= probs.sum()
    tilted = probs * np.exp([apart, -apart, 0.0])
    tilted /= tilted.sum()
    share = 0.9 * (probs / tilted).min()
    rest = (probs - share * tilted) / (1 - share)
    copies = np.log(np.stack([tilted, rest]))
    experts = np.zeros((3, 3, 2))
    experts[:2, :, 1], experts[2] = copies - copies[:, -1:], true.experts_MCF[1]
    gate = true.gate_MG[[0, 0, 1]]
    gate[:2, 1] += np.log([share, 1 - share])
    errors = errors_of(LogisticMixture(gate, experts), true, transform)
    assert errors["density"] < 1e-12
    assert errors["intercepts"] > 0.3 * apart
    assert errors["gate"] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("vanishing", [True, False])
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_two_halves_of_an_expert_are_the_expert(transform: str, vanishing: bool) -> None:
    true = truth(vanishing)
    split = start(true, True, np.random.default_rng(0))
    near = split.moved(-np.random.default_rng(0).normal(0, 0.5, split.free_P().size))
    assert max(errors_of(near, true, transform).values()) < 1e-12
    assert min(errors_of(split, true, transform)[kind] for kind in ("density", *KINDS)) > 1e-3


def test_the_grid_is_uniform_and_only_the_gate_bends_it() -> None:
    plain, bent = design("tanh")
    assert np.ptp(np.diff(plain[:, 0])) == pytest.approx(0, abs=1e-12)
    np.testing.assert_allclose(np.tanh(plain[:, 0]), bent[:, 0])
    assert (plain[:, 1] == 1).all()
    assert (bent[:, 1] == 1).all()
