"""Whole runs of experts that are heads on the common expert's embedding: what they start from, see, and send."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch

import fedmoe.flower.serving_node as node
from fedmoe.data.content_cache import PreparedData
from fedmoe.errors import RoundError, SettingsError
from fedmoe.flower.methods import methods_of
from fedmoe.flower.plugin_check import check_plugins
from fedmoe.flower.preparation import Preparation, prepare_run
from fedmoe.moe.construction import build_expert
from fedmoe.moe.experts.mlp import MLPExpert
from fedmoe.moe.vectors import load_vector
from tests.small import NUM_CLASSES, newest_bytes, newest_state, rounds_of, run_small, small_config, small_settings

WIDTH, CLIENTS = 5, 12  # D, the common expert's hidden units; training clients
HEADS = {"experts.model": "head", "common-expert.model": "mlp", "common-expert.epochs": 20}
HEAD_SIZE = WIDTH * NUM_CLASSES + NUM_CLASSES
COMMON_SIZE = 16 * WIDTH + WIDTH + HEAD_SIZE
PLAIN = "flwr.serverapp.strategy:FedAvg"


def config_of(**changes: Any) -> dict[str, Any]:
    return small_config() | HEADS | {name.replace("__", "."): value for name, value in changes.items()}


class Poisoned(np.ndarray[Any, Any]):
    """Images that must not be looked at."""

    def __getitem__(self, key: Any) -> Any:
        raise AssertionError("an image was looked at")


def poisoned(key: str) -> PreparedData:
    prepared = node_open_prepared(key)
    images = np.zeros_like(prepared.dataset.x_NCHW).view(Poisoned)
    return replace(prepared, dataset=replace(prepared.dataset, x_NCHW=images))


node_open_prepared = node.open_prepared


@pytest.mark.parametrize("strategy", ["fedjets", "fedavg", "ifca", PLAIN])
def test_heads_are_trained_and_no_client_looks_at_an_image(tmp_path: Path, strategy: str) -> None:
    config = config_of(strategy__name=strategy)
    run = run_small(tmp_path, settings=config)
    with mock.patch.object(node, "open_prepared", poisoned):
        blind = run_small(tmp_path / "blind", settings=config, home=tmp_path / "home")
    assert newest_bytes(run) == newest_bytes(blind)
    state = newest_state(run)
    assert {vector.shape for vector in state.experts} == {(HEAD_SIZE,)}
    told = json.loads((run / "summary.json").read_text())
    assert told["bytes"]["once"] == CLIENTS * 4 * COMMON_SIZE, "without a gate too, the common expert has to be there"
    assert told["unseen"]["accuracy_mean"] > 1.5 / NUM_CLASSES
    if strategy in ("fedavg", PLAIN):
        for line in rounds_of(run):
            assert line["bytes"]["down"] == line["bytes"]["up"] == 4 * len(line["clients"]) * HEAD_SIZE


def test_experts_that_see_images_do_look_at_them(tmp_path: Path) -> None:
    with (
        mock.patch.object(node, "open_prepared", poisoned),
        pytest.raises(RoundError, match="an image was looked at"),
    ):
        run_small(tmp_path, settings=config_of(experts__model="mlp"))


def test_both_trainers_give_the_same_run_but_for_rounding(tmp_path: Path) -> None:
    states = []
    for trainer in ("loop", "stacked"):
        config = config_of(**{"train.trainer": trainer, "train.stack": 3 if trainer == "stacked" else 0})
        states.append(newest_state(run_small(tmp_path / trainer, settings=config, home=tmp_path / "home")))
    for one, two in zip(*(state.experts for state in states), strict=True):
        np.testing.assert_allclose(one, two, atol=2e-5)


def prepared_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> Preparation:
    monkeypatch.setenv("FEDMOE_HOME", str(tmp_path))
    return prepare_run(small_settings(**HEADS_ARGUMENTS, **changes), torch.device("cpu"), lambda text: None)


HEADS_ARGUMENTS = {"experts__model": "head", "common_expert__model": "mlp", "common_expert__epochs": 20}


def test_heads_that_start_from_the_common_expert_predict_as_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preparation = prepared_for(tmp_path, monkeypatch)
    ids = np.arange(len(preparation.population.labels_N))
    samples = preparation.store.load(ids, reads=None)
    for init, same in (("common", True), ("random", False)):
        state = preparation.initial_state(3, True, init)
        for vector in state.experts:
            expert = build_expert("head", preparation.spec, 0).eval()
            load_vector(expert, vector)
            with torch.no_grad():
                logits = expert(samples.inputs(slice(None)))
            close = np.allclose(logits.numpy(), preparation.table.logits, atol=1e-5)
            assert close is same, init
    assert np.unique(preparation.table.logits.argmax(axis=1)).size == NUM_CLASSES


def test_the_embeddings_are_read_as_they_are_and_never_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    preparation = prepared_for(tmp_path, monkeypatch)
    before, ids = np.array(preparation.table.embeddings), np.arange(40)
    for resident in (False, True):
        store = replace(preparation.store, resident=resident)
        samples = store.load(ids)
        for rows in (slice(None), slice(3, 9), torch.tensor([5, 5, 0])):
            inputs = samples.inputs(rows)
            np.testing.assert_array_equal(
                inputs.numpy()[:, :, 0, 0], before[ids][np.asarray(rows) if isinstance(rows, torch.Tensor) else rows]
            )
            inputs.fill_(float("nan"))
        np.testing.assert_array_equal(samples.images.numpy()[:, :, 0, 0], before[ids])
        np.testing.assert_array_equal(samples.gate_input.numpy(), before[ids])
        np.testing.assert_array_equal(store.load(ids).images.numpy()[:, :, 0, 0], before[ids])
    np.testing.assert_array_equal(preparation.table.embeddings, before)


REFUSED = {
    "a common expert that is a correction of one": (
        {"common_expert__model": "low_rank", "experts__model": "low_rank"},
        "common-expert.model must name a backbone of its own when experts.model='low_rank', got 'low_rank'",
    ),
    "a correction of a torchvision network": (
        {"common_expert__model": "", "common_expert__source": "torchvision:resnet18", "experts__model": "low_rank"},
        "experts.model='low_rank' stands on a common expert with a backbone of fedmoe's",
    ),
    "a common expert that is a head": (
        {"common_expert__model": "head", "experts__model": "mlp"},
        "common-expert.model must name an image backbone when experts.model='mlp', got 'head'",
    ),
    "crops of embeddings": (
        {"train__augmentation": "crop-flip"},
        "train.augmentation must be 'none' when experts.model='head', got 'crop-flip'",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_had_is_refused_before_anything_is_loaded(case: str) -> None:
    changes, message = REFUSED[case]
    with pytest.raises(SettingsError, match="hint: ") as told:
        check_plugins(small_settings(**HEADS_ARGUMENTS | changes))
    assert str(told.value).startswith(message)


def test_an_expert_that_reads_something_else_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"must read 'image' or 'embedding', got .* which reads 'label'"):
        check_plugins(small_settings(**HEADS_ARGUMENTS | {"experts__model": "tests.flower.test_heads:Clairvoyant"}))


class Clairvoyant:
    """Stands for an expert that asks for what nobody may see."""

    reads = "label"


def test_a_pretrained_network_needs_no_backbone_besides() -> None:
    check_plugins(
        small_settings(
            **HEADS_ARGUMENTS | {"common_expert__model": "", "common_expert__source": "torchvision:resnet18"}
        )
    )


def test_what_starts_from_the_common_expert_is_its_head_or_of_its_backbone() -> None:
    settings = small_settings(**HEADS_ARGUMENTS, experts__init="common", evaluate__baselines="fedavg")
    assert len(methods_of(settings)) == 2
    with pytest.raises(SettingsError, match="both must have one backbone"):
        methods_of(replace(settings, experts=replace(settings.experts, model="cnn")))


def test_a_shared_body_needs_a_body() -> None:
    with pytest.raises(SettingsError, match=r"fedrep shares a body, and needs experts that have one.*hint: "):
        methods_of(small_settings(**HEADS_ARGUMENTS, strategy__name="fedrep"))


class Perceptron(MLPExpert):
    """A plug-in that reads embeddings and has a body of its own."""

    reads = "embedding"


def test_an_expert_on_embeddings_may_have_a_body_and_is_then_no_part_of_the_common_expert(tmp_path: Path) -> None:
    config = config_of(**{"experts.model": f"{__name__}:Perceptron", "strategy.name": "fedrep"})
    with pytest.raises(SettingsError, match="both must have one backbone"):
        run_small(tmp_path, settings=config)
    run = run_small(tmp_path, settings=config | {"strategy.fedrep.init": "random"})
    assert newest_state(run).experts[0].shape == (WIDTH * WIDTH + WIDTH + HEAD_SIZE,)
    assert json.loads((run / "summary.json").read_text())["unseen"]["accuracy_mean"] > 1.5 / NUM_CLASSES
