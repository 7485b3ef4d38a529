"""Federated EM: sums over any split are the pooled ones, the likelihood never falls, and steps are right."""

from collections.abc import Sequence
from functools import reduce
from operator import add

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fedmoe.federation.expectation_maximisation import Ascent, climb, direction
from fedmoe.federation.logistic_mixture import LogisticMixture, MixtureSums, mixture_sums
from fedmoe.federation.logistic_sums import logistic_sums

Floats = NDArray[np.float64]
EXPERTS, CLASSES, WIDTH, SAMPLES = 3, 4, 2, 300


def samples(seed: int) -> tuple[Floats, Floats, NDArray[np.int64]]:
    stream = np.random.default_rng(seed)
    x = stream.normal(size=(SAMPLES, WIDTH))
    features, gate_features = np.c_[x, np.ones(SAMPLES)], np.c_[np.tanh(x), np.ones(SAMPLES)]
    probs = mixture(seed).probs_NC(features, gate_features)
    labels = (stream.random((SAMPLES, 1)) > probs.cumsum(axis=1)).sum(axis=1).clip(max=CLASSES - 1)
    return features, gate_features, labels


def mixture(seed: int, size: float = 1.5) -> LogisticMixture:
    stream = np.random.default_rng((seed, 1))
    gate, experts = (stream.normal(0, size, shape) for shape in ((EXPERTS, WIDTH + 1), (EXPERTS, CLASSES, WIDTH + 1)))
    gate[-1], experts[:, -1] = 0, 0
    return LogisticMixture(gate, experts)


def log_likelihood_by_hand(point: LogisticMixture, features: Floats, gate_features: Floats, labels: Floats) -> float:
    total = 0.0
    for z, u, y in zip(features, gate_features, labels, strict=True):
        weights = np.exp(point.gate_MG @ u) / np.exp(point.gate_MG @ u).sum()
        of_label = [np.exp(own @ z)[y] / np.exp(own @ z).sum() for own in point.experts_MCF]
        total += np.log(weights @ np.array(of_label))
    return float(total)


def flat(sums: MixtureSums) -> Floats:
    assert sums.missing_PP is not None
    heads = [sums.weight, sums.log_likelihood, sums.gate.value, *(own.value for own in sums.experts)]
    return np.concatenate([heads, sums.gradient_P(), sums.complete_PP().ravel(), sums.missing_PP.ravel()])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("clients", [2, 7, 60])
def test_sums_over_any_split_give_the_pooled_step(clients: int, seed: int) -> None:
    data, point = samples(seed), mixture(seed + 10)
    owner = np.random.default_rng(seed).integers(clients, size=SAMPLES)
    pooled = mixture_sums(point, *data, missing=True)
    parts = [mixture_sums(point, *(own[owner == c] for own in data), missing=True) for c in np.unique(owner)]
    summed = reduce(add, parts)
    np.testing.assert_allclose(flat(summed), flat(pooled), rtol=1e-9, atol=1e-9)
    everywhere = np.ones(len(point.free_P()), dtype=bool)
    steps = [direction(sums, 0.1, everywhere) for sums in (summed, pooled)]
    np.testing.assert_allclose(steps[0], steps[1], rtol=1e-6, atol=1e-9)


def test_the_likelihood_is_the_mixtures() -> None:
    data, point = samples(0), mixture(5)
    assert mixture_sums(point, *data).log_likelihood == pytest.approx(log_likelihood_by_hand(point, *data))


@pytest.mark.parametrize("seed", range(2))
def test_gradient_and_information_are_those_of_the_likelihood(seed: int) -> None:
    data, point = samples(seed), mixture(seed + 20)
    features, gate_features, labels = (torch.from_numpy(own) for own in data)
    split, shape = point.gate_MG[:-1].size, point.experts_MCF[:, :-1].shape

    def log_likelihood(free: torch.Tensor) -> torch.Tensor:
        gate = torch.cat([free[:split].reshape(EXPERTS - 1, -1), torch.zeros(1, WIDTH + 1, dtype=free.dtype)])
        experts = torch.cat([free[split:].reshape(shape), torch.zeros(EXPERTS, 1, WIDTH + 1, dtype=free.dtype)], dim=1)
        log_weights = torch.log_softmax(gate_features @ gate.T, dim=1)
        log_probs = torch.log_softmax(torch.einsum("nf,mcf->nmc", features, experts), dim=2)
        own = log_probs[torch.arange(SAMPLES), :, labels]
        return torch.logsumexp(log_weights + own, dim=1).sum()

    free, sums = torch.from_numpy(point.free_P()), mixture_sums(point, *data, missing=True)
    assert sums.missing_PP is not None
    gradient = torch.autograd.functional.jacobian(log_likelihood, free).numpy()
    hessian = torch.autograd.functional.hessian(log_likelihood, free).numpy()
    np.testing.assert_allclose(sums.gradient_P(), gradient, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(sums.complete_PP() - sums.missing_PP, -hessian, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_the_likelihood_never_falls(seed: int, missing: bool) -> None:
    data, ascent = samples(seed), Ascent(mixture(seed + 30, size=3.0))
    reached = []
    for _ in range(40):
        proposal = ascent.proposal()
        ascent = ascent.heard(proposal, mixture_sums(proposal, *data, missing=missing))
        assert ascent.sums is not None
        reached.append(ascent.sums.log_likelihood)
    assert (np.diff(reached) >= 0).all()
    assert reached[-1] > reached[0] + 10


def test_a_long_step_loses_and_is_taken_back() -> None:
    data, start = samples(0), mixture(3)
    ascent = Ascent(start).heard(start, mixture_sums(start, *data))
    far = start.moved(np.full(len(start.free_P()), 50.0))
    after = ascent.heard(far, mixture_sums(far, *data))
    assert after.point is start
    assert after.damping > ascent.damping
    shorter, longer = after.proposal().free_P() - start.free_P(), ascent.proposal().free_P() - start.free_P()
    assert np.linalg.norm(shorter) < np.linalg.norm(longer)


@pytest.mark.parametrize("seed", range(3))
def test_with_the_missing_information_it_ends_where_plain_em_ends_in_fewer_rounds(seed: int) -> None:
    data, start = samples(seed), mixture(seed, size=1.5)
    rounds = {True: 0, False: 0}
    ends = {}
    for missing in rounds:

        def ask(point: LogisticMixture, missing: bool = missing) -> MixtureSums:
            rounds[missing] += 1
            return mixture_sums(point, *data, missing=missing)

        ends[missing] = climb(start, ask, bound=4.0, max_rounds=1500, tolerance=1e-7)
    assert rounds[True] < rounds[False] / 3
    assert all((np.abs(end.point.free_P()) <= 4.0).all() for end in ends.values())
    likelihoods = [end.sums.log_likelihood for end in ends.values() if end.sums is not None]
    assert likelihoods[0] >= likelihoods[1] - 1e-3


def test_one_expert_is_logistic_regression() -> None:
    data, alone = samples(1), mixture(1)
    alone = LogisticMixture(np.zeros((1, WIDTH + 1)), alone.experts_MCF[:1])
    end = climb(alone, lambda point: mixture_sums(point, *data), tolerance=1e-10)
    onehot = np.eye(CLASSES)[data[2]]
    gradient = logistic_sums(data[0], onehot, end.point.experts_MCF[0]).gradient_SF
    assert np.abs(gradient).max() < 1e-4
    assert end.sums is not None
    assert end.sums.gate.gradient_SF == pytest.approx(0)


def test_weights_are_repetitions() -> None:
    data, point = samples(2), mixture(2)
    times = np.random.default_rng(0).integers(4, size=SAMPLES)
    weighted = mixture_sums(point, *data, weight_N=times.astype(float), missing=True)
    repeated = mixture_sums(point, *(np.repeat(own, times, axis=0) for own in data), missing=True)
    np.testing.assert_allclose(flat(weighted), flat(repeated), rtol=1e-9, atol=1e-9)


def test_sums_with_and_without_missing_information_do_not_add_up() -> None:
    data, point = samples(0), mixture(0)
    parts: Sequence[MixtureSums] = [mixture_sums(point, *data, missing=asked) for asked in (True, False)]
    with pytest.raises(ValueError, match="do not add up"):
        _ = parts[0] + parts[1]
