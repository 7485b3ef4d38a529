"""Every gate and every expert in a whole federated run by its name alone: it learns, is served and recorded."""

import json
from pathlib import Path
from typing import Any

import pytest

from fedmoe.moe.construction import gate_class
from fedmoe.references import known_names
from tests.small import NUM_CLASSES, run_small, small_config

GATES = [name for name in known_names("fedmoe.moe.gates") if not gate_class(name).set_by_strategy]
EXPERTS = [name for name in known_names("fedmoe.moe.experts") if not name.startswith("resnet")]
KINDS = [("gate.name", name) for name in GATES] + [("experts.model", name) for name in EXPERTS]
LEARNT = 1.5 / NUM_CLASSES  # three deviations above chance on 180 samples
ADAM = {"num-server-rounds": 8, "train.optimiser": "adamw", "train.learning-rate": 0.01}
SLOWER: dict[str, dict[str, Any]] = {
    "grn": {"num-server-rounds": 6},  # LayerNorm over three scores bounds them
    "mixer": ADAM,
    "ninformer": ADAM,
    "rela": ADAM,
    "patch_cubic": {
        "num-server-rounds": 6,
        "experts.patch_cubic.start": 1.0,
        "train.learning-rate": 0.002,
        "common-expert.learning-rate": 0.002,
    },  # at 0.001 a cube has next to no gradient, and at 1 a large one: docs/systems/chen.md
}
"""Name -> what it takes to learn, where two rounds of the settings of everybody else do not."""

BY_CHANCE = {"cnn": "two poolings leave one pixel of 4x4, and each of three experts sees a few dozen samples"}
"""Name -> why no settings that we tried take it above chance on pictures as small as these: it is to run, no more."""


@pytest.mark.parametrize(("setting", "name"), KINDS)
def test_it_runs_by_its_name_and_learns(tmp_path: Path, setting: str, name: str) -> None:
    settings = small_config(num_server_rounds=2) | {setting: name} | SLOWER.get(name, {})
    run = run_small(tmp_path, settings=settings)
    assert len((run / "rounds.jsonl").read_text().splitlines()) == settings["num-server-rounds"]
    unseen = json.loads((run / "summary.json").read_text())["unseen"]
    assert 0 < unseen["accuracy_mean"] <= 1
    assert name in BY_CHANCE or LEARNT < unseen["mixture_mean"] <= 1, "no better than by lot"


def test_by_plain_steps_cubes_do_not_leave_their_tiny_start(tmp_path: Path) -> None:
    run = run_small(tmp_path, settings=small_config(num_server_rounds=2) | {"experts.model": "patch_cubic"})
    assert json.loads((run / "summary.json").read_text())["unseen"]["mixture_mean"] < LEARNT
