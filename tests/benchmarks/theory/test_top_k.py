"""The top-K mixture's rates in small; the Hellinger distance against what is known of it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.theory.experiment import main
from benchmarks.theory.top_k import EXPERIMENT, samples, truth
from benchmarks.theory.top_k_density import hellinger, nodes_of


def test_the_right_k_falls_and_copies_that_k_does_not_cover_leave_a_floor(tmp_path: Path) -> None:
    results = main(EXPERIMENT, ["--output", str(tmp_path), "--seeds", "0..1", "--small"])
    mean = {row: {name: np.mean([run[name] for run in runs]) for name in runs[0]} for row, runs in results.items()}
    for row in ("true K=1: k=2, K=1", "true K=2: k=2, K=2"):
        assert -0.9 < mean[row]["density"] < -0.3, row
    copied, exact = (mean[f"true K=1: k={k}, K=1"]["density in the end"] for k in (3, 2))
    assert copied < 2 * exact, "a copy of an expert that K does not cover does no harm where the truth has K = 1"
    covered, floor = (mean[f"true K=2: k=3, K={k}, gate held"] for k in (3, 2))
    assert covered["density"] < -0.2 < floor["density"]
    assert floor["density in the end"] > 5 * covered["density in the end"]
    assert (tmp_path / "top_k-small.png").stat().st_size > 10_000


@pytest.mark.parametrize("apart", [0.1, 1.0, 3.0])
def test_the_distance_of_two_normals_is_the_closed_formula(apart: float) -> None:
    one = replace(truth(1), lines_MF=np.array([[2.0, 1.0]] * 2), sigma_M=np.array([0.5, 0.5]))
    other = replace(one, lines_MF=one.lines_MF + np.array([0.0, apart]))
    assert hellinger(one, other) == pytest.approx(np.sqrt(1 - np.exp(-(apart**2) / (8 * 0.25))), rel=1e-5)


@pytest.mark.parametrize("shift", [1e-4, 1e-2])
def test_the_distance_sees_a_jump_that_lies_elsewhere(shift: float) -> None:
    one = truth(1)
    other = one.with_gate(one.gate_MG + np.array([[0.0, -25 * shift], [0.0, 0.0]]))
    # the experts hardly overlap there, so that squares add up to the share of inputs between the two jumps
    assert hellinger(one, other) == pytest.approx(np.sqrt(shift), rel=1e-3)


def test_nodes_are_a_mean_over_inputs() -> None:
    x, weight = nodes_of((truth(1), truth(2)))
    assert weight.sum() == pytest.approx(1)
    assert weight @ np.exp(x) == pytest.approx(np.e - 1)


@pytest.mark.parametrize("k", [1, 2])
def test_samples_follow_the_truth(k: int) -> None:
    true = truth(k)
    features, y = samples(true, 40_000, np.random.default_rng(0))
    apart = (y[:, None] - features @ true.lines_MF.T) / true.sigma_M
    nearest = np.abs(apart).argmin(axis=1)
    low = features[:, 0] < 0.3
    expected = np.exp(true.log_gate_NM(features[low]))[:, 0].mean()
    assert (nearest[low] == 0).mean() == pytest.approx(expected, abs=0.01)
    assert apart[features[:, 0] > 0.8, 0].std() == pytest.approx(1, abs=0.02)
