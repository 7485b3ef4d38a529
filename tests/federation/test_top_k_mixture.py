"""EM under a top-K gate: sums over any split are the pooled ones, and the likelihood never falls."""

from collections.abc import Sequence
from functools import reduce
from operator import add

import numpy as np
import pytest
from numpy.typing import NDArray

from fedmoe.federation.top_k_ascent import climb_top_k
from fedmoe.federation.top_k_mixture import TopKMixture, TopKSums, top_k_sums

Floats = NDArray[np.float64]
EXPERTS, SAMPLES = 4, 400


def mixture(seed: int, k: int, bias_in_selection: bool = True) -> TopKMixture:
    stream = np.random.default_rng((seed, 7))
    # the upper envelope of these scores has all four experts, so that each is somebody's best
    gate = np.array([[9.0, -4.0], [4.0, -0.5], [-4.0, -0.5], [0.0, 0.0]])
    gate[:-1] += stream.normal(0, 0.2, (EXPERTS - 1, 2))
    lines = stream.normal(0, 3, (EXPERTS, 2))
    return TopKMixture(gate, lines, stream.uniform(0.5, 1.5, EXPERTS), k, bias_in_selection)


def samples(seed: int) -> tuple[Floats, Floats]:
    stream = np.random.default_rng(seed)
    x = stream.uniform(-1, 1, SAMPLES)
    return np.c_[x, np.ones(SAMPLES)], np.where(x > 0, 4 * x, 1 - 3 * x) + stream.normal(0, 0.5, SAMPLES)


def numbers(sums: TopKSums) -> Floats:
    parts = (sums.weight_M, sums.zz_MFF, sums.zy_MF, sums.yy_M, sums.gate.gradient_SF, sums.gate.information_SFSF)
    return np.concatenate([[sums.log_likelihood, sums.gate.value], *(part.ravel() for part in parts)])


@pytest.mark.parametrize("bias_in_selection", [True, False])
@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.parametrize("seed", range(3))
def test_the_e_step_is_that_of_a_loop_over_samples(seed: int, k: int, bias_in_selection: bool) -> None:
    point, (features, y) = mixture(seed, k, bias_in_selection), samples(seed)
    log_likelihood, weights = 0.0, np.zeros(EXPERTS)
    for z, own in zip(features, y, strict=True):
        scores = point.gate_MG @ z
        best = np.argsort(-(scores if bias_in_selection else point.gate_MG[:, 0] * z[0]))[:k]
        shares = np.exp(scores[best]) / np.exp(scores[best]).sum()
        apart = (own - point.lines_MF[best] @ z) / point.sigma_M[best]
        joint = shares * np.exp(-(apart**2) / 2) / np.sqrt(2 * np.pi) / point.sigma_M[best]
        log_likelihood += np.log(joint.sum())
        weights[best] += joint / joint.sum()
    sums = top_k_sums(point, features, features, y)
    assert sums.log_likelihood == pytest.approx(log_likelihood)
    np.testing.assert_allclose(sums.weight_M, weights, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("clients", [2, 50])
@pytest.mark.parametrize("seed", range(3))
def test_sums_over_any_split_give_the_pooled_step(seed: int, clients: int) -> None:
    point, (features, y) = mixture(seed, 2), samples(seed)
    owner = np.random.default_rng(seed).integers(clients, size=SAMPLES)
    parts = [top_k_sums(point, *(own[owner == c] for own in (features, features, y))) for c in np.unique(owner)]
    summed, pooled = reduce(add, parts), top_k_sums(point, features, features, y)
    np.testing.assert_allclose(numbers(summed), numbers(pooled), rtol=1e-9, atol=1e-9)
    one, other = summed.fitted(point), pooled.fitted(point)
    np.testing.assert_allclose(one.lines_MF, other.lines_MF, rtol=1e-7)
    np.testing.assert_allclose(one.sigma_M, other.sigma_M, rtol=1e-7)


@pytest.mark.parametrize("fit_gate", [True, False])
@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.parametrize("seed", range(3))
def test_the_likelihood_never_falls(seed: int, k: int, fit_gate: bool) -> None:
    start, (features, y) = mixture(seed, k), samples(seed)

    def likelihoods(point: TopKMixture, gates: Sequence[Floats]) -> Sequence[float]:
        return [top_k_sums(point.with_gate(gate), features, features, y).log_likelihood for gate in gates]

    end, told = climb_top_k(
        start, lambda point: top_k_sums(point, features, features, y), likelihoods, max_rounds=60, fit_gate=fit_gate
    )
    assert (np.diff(told) >= -1e-7).all()
    assert told[-1] > told[0] + 50
    assert np.array_equal(end.gate_MG, start.gate_MG) != fit_gate


def test_with_one_expert_the_step_is_least_squares() -> None:
    features, y = samples(3)
    alone = TopKMixture(np.zeros((1, 2)), np.zeros((1, 2)), np.ones(1), 1)
    fitted = top_k_sums(alone, features, features, y).fitted(alone)
    line, residual, _, _ = np.linalg.lstsq(features, y, rcond=None)
    np.testing.assert_allclose(fitted.lines_MF[0], line)
    assert fitted.sigma_M[0] == pytest.approx(np.sqrt(residual[0] / SAMPLES))


def test_an_expert_that_is_never_chosen_stays_as_it_is() -> None:
    point, (features, y) = mixture(0, 1), samples(0)
    gate = point.gate_MG.copy()
    gate[1] = (0.0, -1000.0)
    fitted = top_k_sums(point.with_gate(gate), features, features, y).fitted(point)
    assert np.array_equal(fitted.lines_MF[1], point.lines_MF[1])
    assert not np.array_equal(fitted.lines_MF, point.lines_MF)
