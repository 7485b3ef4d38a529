"""The population on disk is the population that was dealt."""

import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from fedmoe.data.contracts import Dataset
from fedmoe.data.holdings import Holdings
from fedmoe.data.population import Population, build_population
from fedmoe.data.population_cache import keep_population, open_population
from fedmoe.data.storage import home
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


SETTINGS = {"clients.num": 20, "clients.unseen": 2, "data.public-samples": 50}
ARRAYS = ("ids", "starts", "public", "group", "domain")


def kept(seed: int = 0) -> Path:
    """Returns the folder of a population in the cache."""
    population = build_population(dataset(), from_flat(SETTINGS | {"seed": seed}))
    return home() / "cache" / "populations" / keep_population(population)


def test_arrays_are_mapped_and_a_clients_samples_are_a_view_of_them() -> None:
    opened = open_population(kept().name, dataset().y_N)
    assert not opened.shards.ids.flags.writeable
    assert isinstance(opened.shards.ids.base, np.memmap)
    assert type(opened.shards[3]) is np.ndarray
    assert np.shares_memory(opened.shards[3], opened.shards.ids)


def test_many_clients_are_no_python_objects() -> None:
    clients, size = 60_000, 8
    ids = np.arange(clients * size)
    population = Population(
        shards=Holdings(ids, np.arange(clients + 1) * size),
        num_training=clients - 10,
        anchors={0: 0, 1: 1},
        public_ids=ids[:5],
        groups=((0,), (1,)),
        group_N=ids % 2,
        domain_N=ids * 0,
        domains=("identity",),
        labels_N=ids % 2,
        num_classes=2,
    )
    key = keep_population(population)
    tracemalloc.start()
    try:
        opened = open_population(key, population.labels_N)
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 100_000, "of 60,000 arrays each takes more than a hundred bytes"
    assert peak < 2_500_000, "the hash is taken in pieces of 8192 clients, and a piece is copied a few times"
    assert len(opened.shards) == clients
    assert opened.shards[59_999].tolist() == ids[-size:].tolist()


def test_a_missing_population_is_refused() -> None:
    with pytest.raises(DataError, match="must be in the cache"):
        open_population("0" * 64, dataset().y_N)


def test_another_population_in_its_place_is_refused() -> None:
    folder = kept()
    shutil.rmtree(folder)
    kept(1).rename(folder)
    with pytest.raises(DataError, match="another hash"):
        open_population(folder.name, dataset().y_N)


@pytest.mark.parametrize("file", [*(f"{name}.npy" for name in ARRAYS), "words.json"])
@pytest.mark.parametrize("damage", ["gone", "cut", "short", "altered"])
def test_a_damaged_file_is_refused_and_written_again(file: str, damage: str) -> None:
    folder = kept()
    whole = (folder / file).read_bytes()
    torn = {"cut": whole[:-3], "short": whole[:5], "altered": whole[:-6] + b"9" + whole[-5:]}
    (folder / file).unlink() if damage == "gone" else (folder / file).write_bytes(torn[damage])
    with pytest.raises(DataError, match=f"must be in the cache.*{folder.name}.*hint"):
        open_population(folder.name, dataset().y_N)
    assert kept() == folder
    assert (folder / file).read_bytes() == whole
