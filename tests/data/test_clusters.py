"""The generated data: seeded to the byte, with families that hold together and members that differ."""

import numpy as np
import pytest

from fedmoe.data.clusters_recipe import FAMILIES, MEMBERS, recipe
from fedmoe.data.contracts import Dataset
from fedmoe.data.datasets.clusters import generate_clusters

SEEDS = (0, 1, 12345)


@pytest.fixture(scope="module")
def some() -> Dataset:
    return generate_clusters(0, train_per_class=24, test_per_class=6)


def centroids(dataset: Dataset, rows: slice) -> np.ndarray:
    x = dataset.x_NCHW[rows].reshape(len(dataset.y_N[rows]), -1).astype(np.float32)
    return np.stack([x[dataset.y_N[rows] == label].mean(0) for label in range(FAMILIES * MEMBERS)])


def test_size_labels_and_names(some: Dataset) -> None:
    assert (some.name, some.real, some.num_train) == ("clusters", False, 2400)
    assert some.x_NCHW.shape == (3000, 3, 32, 32)
    assert some.x_NCHW.dtype == np.uint8
    assert np.bincount(some.y_N[:2400]).tolist() == [24] * 100
    assert np.bincount(some.y_N[2400:]).tolist() == [6] * 100
    assert len(set(some.class_names)) == 100
    assert len({recipe(label) for label in range(100)}) == 100


@pytest.mark.parametrize("seed", SEEDS)
def test_same_seed_same_bytes_and_another_seed_differs(seed: int) -> None:
    one, two, other = (generate_clusters(s, train_per_class=2, test_per_class=1) for s in (seed, seed, seed + 1))
    assert one.x_NCHW.tobytes() == two.x_NCHW.tobytes()
    assert not (one.x_NCHW == other.x_NCHW).all((1, 2, 3)).any(), "two seeds share a picture"


@pytest.mark.parametrize("seed", SEEDS)
def test_no_picture_comes_twice(seed: int) -> None:
    dataset = generate_clusters(seed, train_per_class=6, test_per_class=6)
    assert len({image.tobytes() for image in dataset.x_NCHW}) == len(dataset.x_NCHW)


@pytest.mark.parametrize("seed", SEEDS)
def test_members_are_closer_to_their_family_than_to_others(seed: int) -> None:
    means = centroids(generate_clusters(seed, train_per_class=24, test_per_class=1), slice(0, 2400))
    distance = np.linalg.norm(means[:, None] - means[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    family = np.arange(100) // MEMBERS
    assert (family[distance.argmin(1)] == family).mean() >= 0.9


def test_the_nearest_centroid_errs_within_the_family_and_is_far_from_perfect(some: Dataset) -> None:
    means = centroids(some, slice(0, 2400))
    x = some.x_NCHW[2400:].reshape(600, -1).astype(np.float32)
    guess = (-2 * x @ means.T + (means**2).sum(1)).argmin(1)
    right = some.y_N[2400:]
    accuracy = (guess == right).mean()
    wrong = guess != right
    assert 0.05 < accuracy < 0.5
    # Four of the 99 other classes are of the family: 4 % by chance.
    assert (guess[wrong] // MEMBERS == right[wrong] // MEMBERS).mean() > 0.3
