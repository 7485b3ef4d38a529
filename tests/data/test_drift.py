"""Drift: from its round on the samples of one group, and of no other, are called, or look, otherwise."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedmoe.data.drift import renamed
from fedmoe.errors import ReferenceError_, SettingsError
from fedmoe.flower.methods import methods_of
from fedmoe.flower.plugin_check import check_plugins
from fedmoe.flower.preparation import Preparation, prepare_run
from fedmoe.personal import Personalizer
from tests.small import NUM_CLASSES, newest_state, rounds_of, run_small, small_config, small_settings

DOMAINS: dict[str, Any] = {"clients__partition": "domain", "clients__domains": "identity,rotate90,rotate180"}


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDMOE_HOME", str(tmp_path / "home"))


def prepared(**changes: Any) -> Preparation:
    settings = small_settings(clients__drift_round=2, **changes)
    check_plugins(settings)
    return prepare_run(settings, torch.device("cpu"), lambda _: None)


@pytest.mark.parametrize("domains", [{}, DOMAINS])
@pytest.mark.parametrize("seed", range(3))
def test_labels_of_the_group_and_no_others_are_permuted(seed: int, domains: dict[str, Any]) -> None:
    before = prepared(seed=seed, clients__drift_group=1, **domains)
    after = before.at(2)
    assert before.at(1) is before
    old_N, new_N = before.data.dataset.y_N, after.data.dataset.y_N
    drifts_N = before.population.group_N == 1
    drifts_N[before.population.public_ids] = False
    assert (old_N[~drifts_N] == new_N[~drifts_N]).all()
    assert (old_N[drifts_N] != new_N[drifts_N]).all(), "no label keeps its name"
    pairs = {(int(a), int(b)) for a, b in zip(old_N[drifts_N], new_N[drifts_N], strict=True)}
    assert len(pairs) == len(np.unique(old_N[drifts_N])) == (NUM_CLASSES if domains else 2)
    assert {a for a, _ in pairs} == {b for _, b in pairs}
    assert np.array_equal(before.data.dataset.x_NCHW, after.data.dataset.x_NCHW)
    assert np.array_equal(after.population.labels_N, new_N)
    assert np.array_equal(after.population.shards.ids, before.population.shards.ids)
    assert after.common is before.common
    np.testing.assert_array_equal(after.table.embeddings, before.table.embeddings)


def test_another_look_leaves_labels_and_what_images_are_normalised_by() -> None:
    before = prepared(clients__drift="negative")
    after = before.at(7)
    drifts_N = before.population.group_N == 0
    drifts_N[before.population.public_ids] = False
    old, new = before.data.dataset.x_NCHW, after.data.dataset.x_NCHW
    assert np.array_equal(new[drifts_N], 255 - old[drifts_N])
    assert np.array_equal(new[~drifts_N], old[~drifts_N])
    assert np.array_equal(after.data.dataset.y_N, before.data.dataset.y_N)
    assert torch.equal(after.store.mean, before.store.mean)
    changed_N = (after.table.embeddings != before.table.embeddings).any(axis=1)
    assert changed_N[drifts_N].mean() > 0.9
    assert not changed_N[~drifts_N].any()


@pytest.mark.parametrize("seed", range(5))
def test_a_ring_of_names_moves_every_label_and_no_other_class(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = np.sort(rng.choice(9, 4, replace=False))
    new_C = renamed(labels, 9, rng)
    others = np.setdiff1d(np.arange(9), labels)
    assert (new_C[others] == others).all()
    assert (new_C[labels] != labels).all()
    assert sorted(new_C[labels]) == labels.tolist()


def test_a_run_is_the_one_without_drift_until_it_comes_and_another_one_from_then_on(tmp_path: Path) -> None:
    changes = {"num_server_rounds": 4, "evaluate__every": 1, **DOMAINS}
    plain = run_small(tmp_path / "plain", settings=small_config(**changes))
    run = run_small(
        tmp_path / "drift",
        settings=small_config(clients__drift_round=3, clients__drift_group=1, **changes),
        home=tmp_path / "plain" / "home",
    )
    one, two = rounds_of(plain), rounds_of(run)
    assert one[:2] == two[:2]
    assert one[2]["train"] != two[2]["train"]
    assert one[2]["evaluate"]["clients"] != two[2]["evaluate"]["clients"]
    state = newest_state(run)
    assert any(a.tobytes() != b.tobytes() for a, b in zip(state.experts, newest_state(plain).experts, strict=True))


def test_a_run_with_drift_goes_on_as_if_never_cut_off_and_serves_what_it_tested(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_config(num_server_rounds=4, clients__drift_round=2, **DOMAINS)
    whole = run_small(tmp_path / "whole", settings=config)
    kept, lines = newest_state(whole).to_arrays(), rounds_of(whole)
    (whole / "checkpoints" / "round-000004.safetensors").unlink()
    run_small(tmp_path, settings=config | {"resume": str(whole)}, home=tmp_path / "whole" / "home")
    assert {name: a.tobytes() for name, a in newest_state(whole).to_arrays().items()} == {
        name: a.tobytes() for name, a in kept.items()
    }
    assert rounds_of(whole) == lines
    monkeypatch.setenv("FEDMOE_HOME", str(tmp_path / "whole" / "home"))
    tested = lines[-1]["evaluate"]["clients"]
    personalizer = Personalizer(whole)
    for number, told in enumerate(tested):
        own = personalizer.client(number)
        assert np.mean(own.ways["zero_shot"].predictions == own.labels) == pytest.approx(told["zero_shot"], abs=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clients__drift_group": 3}, r"clients.drift-group must be one of the 3 .* got 3"),
        ({"experts__num": 6, "clients__drift_group": 2}, r"labels can be permuted where there are two at least.*alone"),
    ],
)
def test_what_cannot_drift_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        prepared(**changes)


def test_an_unknown_look_and_a_plain_strategy_are_refused_before_anything_runs() -> None:
    with pytest.raises(ReferenceError_):
        check_plugins(small_settings(clients__drift_round=2, clients__drift="upside down"))
    plain = small_settings(clients__drift_round=2, strategy__name="flwr.serverapp.strategy:FedAvg")
    with pytest.raises(SettingsError, match="data drifts for strategies of experts alone"):
        methods_of(plain)
