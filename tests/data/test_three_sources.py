"""three_sources: samples of three data sets, each in its own domain, the digits' real ones among them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import fedmoe.data.datasets.three_sources as module
from fedmoe.data.contracts import Dataset, LoadRequest
from fedmoe.errors import DataError
from fedmoe.flower.preparation import prepare_run
from tests.small import small_settings

ASKED: list[LoadRequest] = []


def source(name: str, channels: int, side: int, train: int, test: int, classes: int = 10) -> Dataset:
    rng = np.random.default_rng(len(name))
    return Dataset(
        name=name,
        real=True,
        x_NCHW=rng.integers(0, 256, (train + test, channels, side, side), dtype=np.uint8),
        y_N=np.arange(train + test) % classes,
        num_train=train,
        class_names=tuple(str(label) for label in range(classes)),
    )


@pytest.fixture
def _three(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDMOE_HOME", str(tmp_path / "home"))
    ASKED.clear()
    monkeypatch.setattr(module, "load_fashion_mnist", lambda r: (ASKED.append(r), source("clothes", 1, 28, 300, 60))[1])
    monkeypatch.setattr(module, "load_imagefolder", lambda r: (ASKED.append(r), source("cifar", 3, 32, 250, 50))[1])


REQUEST = LoadRequest(root="/pictures", seed=3, download_timeout=2)


@pytest.mark.usefixtures("_three")
def test_each_source_is_a_domain_in_grey_at_28_pixels() -> None:
    found = module.load_three_sources(REQUEST)
    assert [request.root for request in ASKED] == [None, "/pictures"]
    assert found.domain_N is not None
    train, test = found.domain_N[: found.num_train], found.domain_N[found.num_train :]
    assert np.bincount(train).tolist() == [1198, 300, 250]
    assert np.bincount(test).tolist() == [599, 60, 50]
    assert found.x_NCHW.shape == (1198 + 599 + 360 + 300, 1, 28, 28)
    assert found.name == "digits+clothes+cifar"
    clothes = source("clothes", 1, 28, 300, 60)
    assert np.array_equal(found.x_NCHW[: found.num_train][train == 1], clothes.x_NCHW[:300])
    assert np.array_equal(found.y_N[: found.num_train][train == 1], clothes.y_N[:300])
    flat = replace(source("cifar", 3, 32, 250, 50), x_NCHW=np.full((300, 3, 32, 32), (9,), dtype=np.uint8))
    assert (module._grey(flat.x_NCHW) == 9).all()


@pytest.mark.usefixtures("_three")
def test_a_large_source_is_cut_to_the_same_samples_for_every_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_TRAIN", 100)
    monkeypatch.setattr(module, "MOST_TEST", 20)
    one, two = module.load_three_sources(REQUEST), module.load_three_sources(replace(REQUEST, seed=4))
    assert np.bincount(one.domain_N[: one.num_train]).tolist() == [100, 100, 100]
    assert len(one.y_N) == 360
    assert np.array_equal(one.x_NCHW, two.x_NCHW)


@pytest.mark.usefixtures("_three")
def test_other_than_ten_classes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "load_imagefolder", lambda r: source("birds", 3, 32, 30, 10, classes=5))
    with pytest.raises(DataError, match="ten classes of each source, got 5 of birds"):
        module.load_three_sources(REQUEST)


@pytest.mark.usefixtures("_three")
@pytest.mark.parametrize("partition", ["domain", "domain-labels"])
def test_the_datas_own_domains_are_the_clients_homes(partition: str) -> None:
    settings = small_settings(data__name="three_sources", clients__partition=partition, clients__labels_per_client=2)
    population = prepare_run(settings, torch.device("cpu"), lambda _: None).population
    assert len(population.domains) == 3
    for client in (*population.training, *population.unseen):
        assert len(np.unique(population.domain_N[population.shards[client]])) == 1
    assert {int(population.domain_N[population.shards[anchor][0]]) for anchor in population.anchors} == {0, 1, 2}
