"""Concept shift: each domain but the first calls labels by names of its own, in the data and in all that reads it."""

from pathlib import Path

import numpy as np
import pytest
import torch

from fedmoe.data.concept_shift import label_meanings
from fedmoe.errors import SettingsError
from fedmoe.flower.plugin_check import check_plugins
from fedmoe.flower.preparation import prepare_run
from tests.small import NUM_CLASSES, small_settings

ALIKE = "identity,identity,identity"


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDMOE_HOME", str(tmp_path / "home"))


def shifted(seed: int, permuted: bool, domains: str = ALIKE):
    settings = small_settings(
        seed=seed, clients__partition="domain", clients__domains=domains, clients__permute_labels=permuted
    )
    check_plugins(settings)
    return settings, prepare_run(settings, torch.device("cpu"), lambda _: None)


@pytest.mark.parametrize("seed", range(3))
def test_every_sample_is_called_as_its_domain_calls_it_and_nothing_else_changes(seed: int) -> None:
    _, plain = shifted(seed, permuted=False, domains="identity,negative,rotate90")
    settings, changed = shifted(seed, permuted=True, domains="identity,negative,rotate90")
    meanings = label_meanings(settings, 3, NUM_CLASSES)
    assert meanings is not None
    assert (meanings[0] == np.arange(NUM_CLASSES)).all()
    assert all(sorted(row) == list(range(NUM_CLASSES)) for row in meanings.tolist())
    domain_N = np.asarray(changed.population.domain_N)
    for sample, domain in enumerate(domain_N.tolist()):
        assert changed.data.dataset.y_N[sample] == meanings[domain][plain.data.dataset.y_N[sample]]
    assert np.array_equal(changed.population.labels_N, changed.data.dataset.y_N)
    assert np.array_equal(changed.data.dataset.x_NCHW, plain.data.dataset.x_NCHW)
    assert changed.partition == plain.partition, "the same clients hold the same samples"
    assert changed.data.fingerprint != plain.data.fingerprint


def test_seeds_have_meanings_of_their_own() -> None:
    tables = [label_meanings(small_settings(seed=s, clients__permute_labels=True), 3, 9) for s in range(3)]
    assert len({table.tobytes() for table in tables if table is not None}) == 3
    assert label_meanings(small_settings(clients__permute_labels=True), 1, 9) is None
    assert label_meanings(small_settings(), 3, 9) is None


def test_domains_may_look_alike_if_they_mean_different_things_and_only_then() -> None:
    _, prepared = shifted(0, permuted=True)
    assert len(np.unique(prepared.population.domain_N)) == 3
    with pytest.raises(SettingsError, match="must name different transforms"):
        shifted(0, permuted=False)


def test_labels_are_permuted_by_domain_or_not_at_all() -> None:
    with pytest.raises(SettingsError, match=r"clients.permute-labels .* got clients.partition='iid'"):
        check_plugins(small_settings(clients__partition="iid", clients__permute_labels=True))
