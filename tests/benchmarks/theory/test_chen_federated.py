"""Clients of one cluster each: with anchors the gate finds the clusters' centres; what the figures are made of."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.theory.chen_federated import EXPERIMENT, found_centres
from fedmoe.data.patch_law import directions


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_anchors_and_an_averaged_gate_find_the_clusters(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDMOE_HOME", str(tmp_path))
    one = EXPERIMENT.measure("FedAvg, one linear", seed, True)
    found = EXPERIMENT.measure("4 anchors, K = 2 of 4, linear", seed, True)
    assert one["accuracy"] < 80
    assert found["accuracy"] > 97
    assert found["entropy"] < 0.1
    assert found["cosine"] > 0.95


@pytest.mark.parametrize("seed", range(3))
def test_the_cosine_is_1_where_the_gate_is_the_centres_whatever_is_added_to_all(seed: int) -> None:
    centres_KD, stream = directions(seed)[1], np.random.default_rng(seed)
    cluster_N = np.repeat(np.arange(4), 30)
    order = stream.permutation(6)[:4]
    expert_N = order[cluster_N]
    theta_MD = np.zeros((6, 50)) + centres_KD.mean(axis=0)
    theta_MD[order] = centres_KD
    shift = stream.normal(size=50)
    assert found_centres(3 * theta_MD + shift, centres_KD, cluster_N, expert_N) == pytest.approx(1)
    mixed = np.where(stream.random(120) < 0.3, stream.integers(6, size=120), expert_N)
    assert found_centres(theta_MD, centres_KD, cluster_N, mixed) == pytest.approx(1)


@pytest.mark.parametrize("seed", range(3))
def test_a_gate_that_knows_nothing_has_a_cosine_near_0(seed: int) -> None:
    centres_KD, stream = directions(seed)[1], np.random.default_rng(seed)
    cluster_N, expert_N = np.repeat(np.arange(4), 30), stream.integers(6, size=120)
    assert abs(found_centres(stream.normal(size=(6, 50)), centres_KD, cluster_N, expert_N)) < 0.3
    assert found_centres(np.zeros((6, 50)), centres_KD, cluster_N, expert_N) == 0
