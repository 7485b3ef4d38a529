"""clusters_patch: what a sample is made of, that nothing else tells label or cluster, and its pixels."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fedmoe.data.contracts import LoadRequest
from fedmoe.data.datasets.clusters_patch import load_clusters_patch, pixels
from fedmoe.data.patch_law import CLUSTERS, LAWS, PATCHES, WIDTH, directions, draw_patches
from fedmoe.flower.preparation import prepare_run
from tests.small import small_settings

SEEDS = range(3)


@pytest.mark.parametrize("seed", SEEDS)
def test_features_and_centres_are_orthonormal_and_their_own_for_each_seed(seed: int) -> None:
    frame = np.concatenate(directions(seed))
    np.testing.assert_allclose(frame @ frame.T, np.eye(2 * CLUSTERS), atol=1e-12)
    assert abs(np.sum(frame * np.concatenate(directions(seed + 1)))) < 7.9


@pytest.mark.parametrize("setting", LAWS)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_sample_is_its_label_its_cluster_and_a_misleading_feature(seed: int, setting: int) -> None:
    """Without noise, each patch is a multiple of one direction: read off, one by one, what the definition says."""
    law = replace(LAWS[setting], noise=0.0)
    drawn = draw_patches(law, 400, seed, "train")
    frame = np.concatenate(directions(seed))
    for x_PD, y, cluster in zip(drawn.x_NPD, drawn.y_N, drawn.cluster_N, strict=True):
        found = {}
        for patch in x_PD @ frame.T:
            which = np.flatnonzero(np.abs(patch) > 1e-5)
            assert len(which) <= 1
            found.update({int(one): float(patch[one]) for one in which})
        assert len(found) == 3
        assert law.alpha[0] <= (2 * y - 1) * found.pop(int(cluster)) <= law.alpha[1]
        assert law.beta[0] <= found.pop(CLUSTERS + int(cluster)) <= law.beta[1]
        ((other, strength),) = found.items()
        assert other < CLUSTERS
        assert law.gamma[0] <= abs(strength) <= law.gamma[1]


@pytest.mark.parametrize("seed", SEEDS)
def test_clusters_labels_signs_and_places_are_even_and_tell_nothing_of_each_other(seed: int) -> None:
    drawn = draw_patches(replace(LAWS[1], noise=0.0), 6000, seed, "train")
    features, centres = (drawn.x_NPD @ frame.T for frame in directions(seed))
    rows = np.arange(len(drawn.y_N))
    place_N = np.abs(centres).max(axis=2).argmax(axis=1)
    misleading_NK = features.sum(axis=1)
    misleading_NK[rows, drawn.cluster_N] = 0
    assert (np.abs(misleading_NK).max(axis=1) > 0.49).all(), "the misleading feature is another cluster's"
    other_N = np.abs(misleading_NK).argmax(axis=1)
    sign_N = (misleading_NK.sum(axis=1) > 0).astype(int)
    cells = np.zeros((CLUSTERS, CLUSTERS, 2, 2, PATCHES), dtype=int)
    np.add.at(cells, (drawn.cluster_N, other_N, drawn.y_N, sign_N, place_N), 1)
    assert all(cells[k, k].sum() == 0 for k in range(CLUSTERS))
    held = cells[~np.eye(CLUSTERS, dtype=bool)].ravel()
    expected = 6000 / held.size
    # chi-square with 191 degrees of freedom lies below 257 in 999 of 1000 even draws
    assert ((held - expected) ** 2 / expected).sum() < 257


@pytest.mark.parametrize("setting", LAWS)
def test_noise_is_as_strong_as_its_law_says(setting: int) -> None:
    law = LAWS[setting]
    drawn = draw_patches(law, 3000, 0, "test")
    frame = np.concatenate(directions(0))
    rest = drawn.x_NPD - drawn.x_NPD @ frame.T @ frame
    energy = (rest**2).sum() / (3000 * (WIDTH - 2 * CLUSTERS))
    assert energy == pytest.approx(law.noise**2 / WIDTH, rel=0.02)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_data_set_is_the_law_in_pixels(seed: int) -> None:
    request = LoadRequest(root=None, seed=seed, download_timeout=1)
    found = load_clusters_patch(request)
    drawn = draw_patches(LAWS[1], found.num_train, seed, "train")
    assert (found.name, found.real, found.num_train) == ("clusters_patch", False, 16_000)
    assert found.x_NCHW.shape == (32_000, 1, PATCHES, WIDTH)
    values = (found.x_NCHW[: found.num_train, 0].astype(np.float64) - 128) / 64
    assert np.abs(values - drawn.x_NPD).max() <= 0.5 / 64 + 1e-6
    assert found.domain_N is not None
    assert np.array_equal(found.domain_N[: found.num_train], drawn.cluster_N)
    assert np.array_equal(found.y_N[: found.num_train], drawn.y_N)
    train, test = found.x_NCHW[: found.num_train], found.x_NCHW[found.num_train :]
    assert not {image.tobytes() for image in train} & {image.tobytes() for image in test}
    assert found.x_NCHW.tobytes() == load_clusters_patch(request).x_NCHW.tobytes()
    other = load_clusters_patch(replace(request, seed=seed + 1))
    assert found.x_NCHW.tobytes() != other.x_NCHW.tobytes()


def test_values_beyond_the_range_are_cut_to_it() -> None:
    values = np.array([-9.0, -2.0, 0.0, 1 / 64, 1.99, 9.0], dtype=np.float32)
    assert pixels(values).tolist() == [0, 0, 128, 129, 255, 255]


def test_clients_of_the_domain_partition_hold_one_cluster_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDMOE_HOME", str(tmp_path))
    settings = small_settings(
        data__name="clusters_patch", clients__partition="domain", experts__num=4, clients__unseen=4
    )
    population = prepare_run(settings, torch.device("cpu"), lambda _: None).population
    for clients in (population.training, population.unseen):
        homes = [np.unique(population.domain_N[population.shards[client]]) for client in clients]
        assert all(len(home) == 1 for home in homes)
        assert {int(home[0]) for home in homes} == set(range(CLUSTERS))
