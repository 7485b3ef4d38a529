"""The common expert: trained, given, or torchvision's; cached by content; a damaged file is refused."""

import linecache
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision import models

from fedmoe.data.contracts import Dataset
from fedmoe.errors import DataError, SettingsError
from fedmoe.flower.preparation import prepare_run
from fedmoe.moe.vectors import to_vector
from fedmoe.settings import Settings, from_flat
from fedmoe.training import common_expert as module
from fedmoe.training.common_expert import common_expert
from fedmoe.training.sample_store import channel_statistics
from tests.small import small_config

CPU = torch.device("cpu")


def blobs(seed: int = 0, side: int = 8) -> Dataset:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 4, 200)
    centres = rng.integers(40, 200, (4, 1, side, side))
    x = np.clip(centres[y] + rng.normal(0, 10, (200, 1, side, side)), 0, 255).astype(np.uint8)
    return Dataset(name="blobs", real=False, x_NCHW=x, y_N=y, num_train=150, class_names=("a", "b", "c", "d"))


def settings(**more: float | str) -> Settings:
    return from_flat({"experts.model": "mlp", "experts.width": 8, "train.threads": 1} | more)


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDMOE_HOME", str(tmp_path / "home"))


PUBLIC = np.arange(100)


def test_it_learns_and_the_second_call_comes_from_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    first = common_expert(settings(), blobs(), "data", PUBLIC, CPU)
    assert first.report["held_out_accuracy"] > 0.9
    assert not first.report["cached"]
    monkeypatch.setattr(module, "pretrain", None)
    second = common_expert(settings(), blobs(), "data", PUBLIC, CPU)
    assert second.report["cached"]
    assert second.fingerprint == first.fingerprint
    assert not any(parameter.requires_grad for parameter in second.expert.parameters())


@pytest.mark.parametrize("other", [{"common-expert.epochs": 3}, {"seed": 1}, {"experts.width": 4}])
def test_other_settings_give_another_common_expert(other: dict[str, float]) -> None:
    first = common_expert(settings(), blobs(), "data", PUBLIC, CPU)
    second = common_expert(settings(**other), blobs(), "data", PUBLIC, CPU)
    assert first.fingerprint != second.fingerprint


def test_a_stated_accuracy_ends_training_early_and_an_unreached_one_is_told() -> None:
    early = common_expert(settings(**{"common-expert.accuracy": 0.5}), blobs(), "data", PUBLIC, CPU).report
    never = common_expert(
        settings(**{"common-expert.accuracy": 1.0, "common-expert.epochs": 1, "common-expert.learning-rate": 1e-6}),
        blobs(),
        "data",
        PUBLIC,
        CPU,
    ).report
    assert early["epochs"] < 20
    assert early["reached"]
    assert not never["reached"]


def test_a_given_file_is_used_and_a_file_of_another_shape_or_a_cut_one_is_refused(tmp_path: Path) -> None:
    trained = common_expert(settings(), blobs(), "data", PUBLIC, CPU)
    (file,) = (tmp_path / "home" / "cache" / "common").glob("*.safetensors")
    given = common_expert(settings(**{"common-expert.source": str(file)}), blobs(), "data", PUBLIC, CPU)
    np.testing.assert_array_equal(to_vector(given.expert), to_vector(trained.expert))
    with pytest.raises(DataError, match="does not fit"):
        common_expert(settings(**{"common-expert.source": str(file), "experts.width": 4}), blobs(), "data", PUBLIC, CPU)
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(file.read_bytes()[:100])
    with pytest.raises(DataError, match="does not fit"):
        common_expert(settings(**{"common-expert.source": str(cut)}), blobs(), "data", PUBLIC, CPU)
    with pytest.raises(DataError, match="must be 'public'"):
        common_expert(settings(**{"common-expert.source": "/nowhere.safetensors"}), blobs(), "data", PUBLIC, CPU)


def test_torchvision_weights_are_probed_with_a_linear_head(monkeypatch: pytest.MonkeyPatch) -> None:
    state = models.resnet18(weights=None).state_dict()
    weights = models.ResNet18_Weights
    monkeypatch.setattr(weights, "get_state_dict", lambda *args, **kwargs: state)
    monkeypatch.setattr("fedmoe.training.pretrained.SIDE", 32)
    common = common_expert(settings(**{"common-expert.source": "torchvision:resnet18"}), blobs(), "data", PUBLIC, CPU)
    assert common.expert.embedding_dim == 512
    assert common.report["held_out_accuracy"] > 0.6
    assert common.backbone == "torchvision:resnet18"


def test_torchvision_weights_that_cannot_be_had_are_refused_with_the_place_to_put_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))

    def offline(*args: object, **kwargs: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("torch.hub.download_url_to_file", offline)
    with pytest.raises(DataError, match=r"resnet18-.*\.pth there"):
        common_expert(settings(**{"common-expert.source": "torchvision:resnet18"}), blobs(), "data", PUBLIC, CPU)
    with pytest.raises(SettingsError, match="did you mean 'resnet18'"):
        common_expert(settings(**{"common-expert.source": "torchvision:resnet19"}), blobs(), "data", PUBLIC, CPU)


def test_statistics_of_data_sorted_by_class_are_those_of_all_classes() -> None:
    images = (np.arange(12_000) // 60).astype(np.uint8).reshape(-1, 1, 1, 1)
    mean, _ = channel_statistics(images, np.arange(12_000))
    assert abs(float(mean[0]) - images.mean()) < 1


MINE = """from fedmoe.moe.experts.mlp import MLPExpert


class Mine(MLPExpert):
    note = "{}"
"""


def test_a_backbone_that_its_author_has_edited_is_trained_anew(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    prints = []
    for text in ("first", "second", "first"):
        file.write_text(MINE.format(text))
        for name in [name for name in sys.modules if name.startswith("fedmoe_plugin_mine")]:
            del sys.modules[name]
        linecache.clearcache()
        common = common_expert(settings(**{"experts.model": f"{file}:Mine"}), blobs(), "data", PUBLIC, CPU)
        prints.append((common.fingerprint, common.report["cached"]))
    assert prints[0][0] == prints[2][0] != prints[1][0]
    assert [cached for _, cached in prints] == [False, False, True]


def test_another_public_split_gives_other_embeddings_even_from_the_same_file(tmp_path: Path) -> None:
    common_expert(settings(), blobs(), "data", PUBLIC, CPU)
    (file,) = (tmp_path / "home" / "cache" / "common").glob("*.safetensors")
    given = settings(**{"common-expert.source": str(file)})
    first, second = (common_expert(given, blobs(), "data", public, CPU) for public in (PUBLIC, PUBLIC[50:]))
    assert first.fingerprint != second.fingerprint
    assert first.report == {"source": str(file)}


def test_arguments_that_leave_no_trace_in_the_weights_are_part_of_the_fingerprint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDMOE_HOME", str(tmp_path))
    found = []
    for activation in ("gelu", "silu"):
        changes = {"experts.expanded.activation": activation, "experts.model": "expanded", "common-expert.epochs": 0}
        preparation = prepare_run(from_flat(small_config() | changes), torch.device("cpu"), lambda text: None)
        with torch.no_grad():
            images = torch.from_numpy(preparation.data.dataset.x_NCHW[:5].copy()).float()
            mean, std = (own.view(-1, 1, 1) for own in (preparation.store.mean, preparation.store.std))
            embedded = preparation.common.expert.embed((images - mean) / std)
        np.testing.assert_allclose(preparation.table.embeddings[:5], embedded.numpy(), rtol=1e-4, atol=1e-5)
        found.append((preparation.common.fingerprint, to_vector(preparation.common.expert).tobytes()))
    assert found[0][1] == found[1][1], "the same weights"
    assert found[0][0] != found[1][0]
