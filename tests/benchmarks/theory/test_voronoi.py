"""Softmax-gated Gaussian experts in small: rates, the fit against EM, and gates of several clients merged."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.theory import canonical_gates, voronoi_merging
from benchmarks.theory.experiment import main
from benchmarks.theory.gaussian_gating import errors_of, fitted, free_of, gradient, mixture_of, near, samples_at
from benchmarks.theory.top_k_density import hellinger
from benchmarks.theory.voronoi import EXPERIMENT, truth
from benchmarks.theory.voronoi_merging import averaged, canonical_rows, client_fits, matched
from fedmoe.federation.top_k_mixture import TopKMixture, top_k_sums


def test_exact_fits_fall_fast_and_copies_slowly(tmp_path: Path) -> None:
    results = main(EXPERIMENT, ["--output", str(tmp_path), "--seeds", "0..1", "--small"])
    mean = {row: {name: np.mean([run[name] for run in runs]) for name in runs[0]} for row, runs in results.items()}
    exact, copies = mean["two experts for two"], mean["three for two: one there twice"]
    assert -0.75 < exact["density"] < -0.3
    assert -0.75 < copies["density"] < -0.3
    assert exact["voronoi"] < -0.3
    assert copies["gate slopes at 3162"] > 3 * exact["gate slopes at 3162"]
    assert copies["slopes at 3162"] > 1.5 * exact["slopes at 3162"]
    assert (tmp_path / "voronoi-small.png").stat().st_size > 10_000


def problem(seed: int, ids: list[int], size: int = 400) -> tuple[TopKMixture, np.ndarray, np.ndarray]:
    stream = np.random.default_rng(seed)
    features, y = samples_at(truth(), stream.random(size), stream)
    return near(truth(), ids, stream), features, y


@pytest.mark.parametrize("ids", [[0, 1], [0, 1, 1]])
@pytest.mark.parametrize("seed", range(3))
def test_the_gradient_is_that_of_the_likelihood_and_of_ems_sums(seed: int, ids: list[int]) -> None:
    start, features, y = problem(seed, ids)
    value, slope = gradient(start, features, y)
    free, step = free_of(start), 1e-6
    for place in range(len(free)):
        by = np.eye(len(free))[place] * step
        ends = [gradient(mixture_of(free + sign * by, start.k), features, y)[0] for sign in (1, -1)]
        assert slope[place] == pytest.approx((ends[0] - ends[1]) / (2 * step), abs=1e-6)
    sums = top_k_sums(start, features, features, y)
    assert -value * len(y) == pytest.approx(sums.log_likelihood)
    np.testing.assert_allclose(-slope[: 2 * start.k - 2] * len(y), sums.gate.gradient_SF[:-1].ravel(), atol=1e-8)


@pytest.mark.parametrize("seed", range(3))
def test_the_fit_is_a_point_that_em_does_not_leave(seed: int) -> None:
    start, features, y = problem(seed, [0, 1])
    found = fitted(start, features, y, (50.0, 50.0))
    assert gradient(found, features, y)[0] < gradient(start, features, y)[0]
    after = top_k_sums(found, features, features, y).fitted(found)
    np.testing.assert_allclose(after.lines_MF, found.lines_MF, atol=1e-3)
    np.testing.assert_allclose(after.sigma_M, found.sigma_M, atol=1e-3)


def test_the_truth_has_no_error() -> None:
    assert all(abs(value) < 1e-6 for value in errors_of(truth(), truth()).values())


@pytest.mark.parametrize("seed", range(3))
def test_the_form_changes_no_average_and_what_is_not_linear_in_gates(seed: int) -> None:
    fits, uses, together = client_fits(seed, 400)
    own, shares = matched(fits, uses)
    for fit, use in ((fits, uses), (own, shares)):
        plain, form = (averaged(fit, use, "mean", formed) for formed in (False, True))
        np.testing.assert_allclose(canonical_rows(plain.gate_MG), form.gate_MG, atol=1e-12)
        assert hellinger(plain, form) < 1e-7
    for merge in ("use", "median"):
        assert hellinger(averaged(own, shares, merge, False), averaged(own, shares, merge, True)) > 1e-3
    # a client that holds another row at 0 sends the same function
    other = [replace(fit, gate_MG=fit.gate_MG - fit.gate_MG[0]) for fit in own]
    for merge in ("mean", "use", "median"):
        assert hellinger(averaged(own, shares, merge, True), averaged(other, shares, merge, True)) < 1e-7
    true = voronoi_merging.truth()
    assert hellinger(together, true) < hellinger(averaged(own, shares, "mean", True), true) + 0.05
    assert hellinger(averaged(fits, uses, "mean", True), true) > 0.3


def test_forms_make_no_difference_to_a_federated_average() -> None:
    rows = (f"SGD, mean, {form}" for form in ("as trained", "canonical"))
    plain, form = (canonical_gates.measure(row, 0, small=True) for row in rows)
    assert plain == pytest.approx(form, abs=1e-9), "averages of the two are one function, so no answer differs"
