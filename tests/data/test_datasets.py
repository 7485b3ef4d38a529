"""What every built-in data set keeps, and the digits in particular."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits as load_arrays

from fedmoe.data.contracts import LoadRequest
from fedmoe.data.datasets.digits import load_digits
from fedmoe.data.holdout import hold_out
from fedmoe.references import known_names, load_plugin

# One row a data set: the file of tests that reads it. A new file in fedmoe/data/datasets/ without a row fails.
ROWS = {
    "cifar10": "test_cifar.py",
    "cifar100": "test_cifar.py",
    "clusters": "test_clusters.py",
    "clusters_patch": "test_clusters_patch.py",
    "digits": "test_datasets.py",
    "emnist": "test_idx_sets.py",
    "fashion_mnist": "test_idx_sets.py",
    "imagefolder": "test_imagefolder.py",
    "three_sources": "test_three_sources.py",
}


def ask(seed: int) -> LoadRequest:
    return LoadRequest(root=None, seed=seed, download_timeout=2)


def test_every_data_set_has_its_row() -> None:
    assert known_names("fedmoe.data.datasets") == sorted(ROWS)
    for name, file in ROWS.items():
        loader = load_plugin("data set", "fedmoe.data.datasets", name)
        assert loader.__name__ == f"load_{name}"
        assert name in (Path(__file__).parent / file).read_text()


def test_digits_are_scikit_learns() -> None:
    dataset, found = load_digits(ask(0)), load_arrays()
    assert dataset.x_NCHW.shape == (1797, 1, 8, 8)
    assert (dataset.x_NCHW.min(), dataset.x_NCHW.max()) == (0, 255)
    mine = sorted(zip(dataset.y_N.tolist(), (image.tobytes() for image in dataset.x_NCHW), strict=True))
    scaled = np.rint(found.images * 255 / 16).astype(np.uint8)
    assert mine == sorted(zip(found.target.tolist(), (image.tobytes() for image in scaled), strict=True))


def test_digits_split_is_the_same_for_every_seed() -> None:
    one, two = load_digits(ask(0)), load_digits(ask(1))
    assert np.array_equal(one.x_NCHW, two.x_NCHW)
    assert np.array_equal(one.y_N, two.y_N)
    assert one.num_train == 1198


@pytest.mark.parametrize("seed", range(5))
def test_hold_out_takes_its_share_of_each_class(seed: int) -> None:
    stream = np.random.default_rng(seed)
    share = float(stream.uniform(0.1, 0.9))
    y_N = stream.permutation(np.repeat(np.arange(6), [1, 2, 3, 10, 40, 200])).astype(np.int64)
    train, test = hold_out("x", y_N, share)
    assert sorted([*train, *test]) == list(range(len(y_N)))
    for label, num in enumerate([1, 2, 3, 10, 40, 200]):
        held = int((y_N[test] == label).sum())
        assert abs(held - share * num) <= 1
        assert held >= (num > 1)
        assert held < num
    assert np.array_equal(test, hold_out("x", y_N, share)[1])
    assert not np.array_equal(test, hold_out("y", y_N, share)[1])
