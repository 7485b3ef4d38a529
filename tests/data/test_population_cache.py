"""The population on disk is the population that was dealt."""

from pathlib import Path

import numpy as np
import pytest

from fedmoe.data.contracts import Dataset
from fedmoe.data.population import build_population
from fedmoe.data.population_cache import keep_population, open_population
from fedmoe.errors import DataError
from fedmoe.settings import from_flat


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDMOE_HOME", str(tmp_path))


def dataset() -> Dataset:
    y = np.arange(1200) % 10
    x = np.zeros((1200, 1, 2, 2), np.uint8)
    return Dataset(name="y", real=False, x_NCHW=x, y_N=y, num_train=900, class_names=tuple("abcdefghij"))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("partition", ["random-labels", "domain", "iid"])
def test_what_is_opened_equals_what_was_kept(partition: str, seed: int) -> None:
    settings = from_flat(
        {
            "seed": seed,
            "clients.partition": partition,
            "clients.num": 20,
            "clients.unseen": 2,
            "data.public-samples": 50,
        }
    )
    population = build_population(dataset(), settings)
    opened = open_population(keep_population(population), population.labels_N)
    assert opened.fingerprint() == population.fingerprint()
    for field in ("num_training", "anchors", "groups", "domains", "num_classes", "notes"):
        assert getattr(opened, field) == getattr(population, field)
    np.testing.assert_array_equal(opened.labels_N, population.labels_N)
    assert all(np.array_equal(mine, other) for mine, other in zip(opened.shards, population.shards, strict=True))


def test_a_missing_a_cut_and_an_altered_file_are_refused(tmp_path: Path) -> None:
    settings = from_flat({"clients.num": 20, "clients.unseen": 2, "data.public-samples": 50})
    key = keep_population(build_population(dataset(), settings))
    (file,) = (tmp_path / "cache" / "populations").iterdir()
    with pytest.raises(DataError, match="must be in the cache"):
        open_population("0" * 64, dataset().y_N)
    other = keep_population(
        build_population(
            dataset(), from_flat({"seed": 1, "clients.num": 20, "clients.unseen": 2, "data.public-samples": 50})
        )
    )
    (file.parent / f"{other}.npz").replace(file)
    with pytest.raises(DataError, match="another hash"):
        open_population(key, dataset().y_N)
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(DataError, match="must be in the cache"):
        open_population(key, dataset().y_N)
