"""Laws of the simulations: each is an app that Flower can run, whose every setting a command line can override."""

import importlib
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest
from flwr.clientapp import ClientApp
from flwr.common.config import flatten_dict
from flwr.serverapp import ServerApp

from fedmoe.flower.local_run import read_config
from fedmoe.flower.methods import methods_of
from fedmoe.flower.plugin_check import check_plugins
from fedmoe.references import load_plugin
from fedmoe.settings import from_flat
from fedmoe.settings.loading import leaves
from fedmoe.settings.schema import ExpertsSettings

ROOT = Path(__file__).parents[1]
SIMULATIONS = sorted(file.parent for file in ROOT.glob("simulations/*/pyproject.toml"))
PRESETS = sorted(ROOT.glob("simulations/*/conf/*.toml"))
BUILT_IN = (
    "fedjets",
    "fedavg",
    "fedprox",
)  # of others the arguments may stand there: a new strategy edits no other file

each_simulation = pytest.mark.parametrize("folder", SIMULATIONS, ids=lambda folder: folder.name)
each_preset = pytest.mark.parametrize("preset", PRESETS, ids=lambda file: f"{file.parents[1].name}-{file.stem}")


def project_of(folder):
    return tomllib.loads((folder / "pyproject.toml").read_text())


def config_of(folder):
    return flatten_dict(project_of(folder)["tool"]["flwr"]["app"]["config"])


def check_runs(flat):
    """Settings, plug-ins and strategy arguments are all in order: what a run checks before it loads data."""
    settings = from_flat(flat)
    check_plugins(settings)
    assert methods_of(settings)
    return settings


def test_the_promised_simulations_are_there():
    assert {folder.name for folder in SIMULATIONS} >= {"quickstart", "fashion_mnist", "cifar10", "cifar100"}
    assert {str(file.relative_to(ROOT)) for file in PRESETS} >= {
        "simulations/cifar10/conf/paper.toml",
        "simulations/cifar100/conf/paper.toml",
    }


@each_simulation
def test_every_setting_stands_in_the_table_for_only_what_stands_there_can_be_overridden(folder):
    assert [key for key, _ in leaves() if key not in config_of(folder)] == []


@each_simulation
def test_every_argument_of_the_built_in_strategies_stands_in_the_table_with_its_type(folder):
    flat = config_of(folder)
    for name in BUILT_IN:
        for item in fields(load_plugin("strategy", "strategies", name)):
            key = f"strategy.{name}.{item.name.replace('_', '-')}"
            assert type(flat.get(key)) is type(item.default), key


@each_simulation
def test_the_table_is_a_run_that_starts(folder):
    settings = check_runs(config_of(folder))
    assert settings.simulation == folder.name
    assert project_of(folder)["project"]["name"].replace("-", "_") == folder.name
    assert settings.output_dir == settings.resume == "", "a folder of somebody's machine"
    assert settings.data.root == ""


@each_simulation
def test_nothing_is_installed_for_it_and_its_apps_are_the_installed_ones(folder):
    project = project_of(folder)
    assert project["project"]["dependencies"] == []
    assert "federations" not in project["tool"]["flwr"], "Flower comments it out in the tracked file"
    for name, kind in {"serverapp": ServerApp, "clientapp": ClientApp}.items():
        module, _, attribute = project["tool"]["flwr"]["app"]["components"][name].partition(":")
        assert module.startswith("fedmoe.")
        assert isinstance(getattr(importlib.import_module(module), attribute), kind)


@each_simulation
def test_fedmoe_reads_the_table_as_flower_does(folder):
    assert read_config(folder, [])[1] == config_of(folder)


@each_preset
def test_a_preset_overrides_only_what_stands_in_the_table_and_keeps_its_types(preset):
    flat, overrides = config_of(preset.parents[1]), flatten_dict(tomllib.loads(preset.read_text()))
    assert overrides
    assert [key for key in overrides if key not in flat] == []
    assert {k: type(v) for k, v in overrides.items()} == {k: type(flat[k]) for k in overrides}


@each_preset
def test_a_preset_changes_the_table_and_gives_a_run_that_starts(preset):
    folder = preset.parents[1]
    fused = read_config(folder, [str(preset)])[1]
    assert fused == config_of(folder) | flatten_dict(tomllib.loads(preset.read_text()))
    assert check_runs(fused)


def test_the_papers_own_sizes_are_the_presets():
    sizes = {"cifar10": (5, 2, 4, 0.73, 1250), "cifar100": (10, 2, 10, 0.67, 2000)}
    for name, (experts, top_k, labels, accuracy, rounds) in sizes.items():
        folder = ROOT / "simulations" / name
        settings = check_runs(read_config(folder, [str(folder / "conf/paper.toml")])[1])
        assert isinstance(settings.experts, ExpertsSettings)
        assert (settings.experts.num, settings.experts.top_k, settings.experts.model) == (experts, top_k, "resnet34")
        assert (settings.clients.num, settings.clients.per_round, settings.clients.anchors_per_round) == (100, 10, 5)
        assert (settings.clients.labels_per_client, settings.clients.partition) == (labels, "random-labels")
        assert (settings.common_expert.accuracy, settings.num_server_rounds) == (accuracy, rounds)
