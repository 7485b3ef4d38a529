"""Every gate and every expert in a whole federated run by its name alone, served and recorded."""

import json
from pathlib import Path

import pytest

from fedmoe.moe.construction import gate_class
from fedmoe.references import known_names
from tests.small import run_small, small_config

GATES = [name for name in known_names("fedmoe.moe.gates") if not gate_class(name).set_by_strategy]
EXPERTS = [name for name in known_names("fedmoe.moe.experts") if not name.startswith("resnet")]
KINDS = [("gate.name", name) for name in GATES] + [("experts.model", name) for name in EXPERTS]


@pytest.mark.parametrize(("setting", "name"), KINDS)
def test_it_runs_by_its_name(tmp_path: Path, setting: str, name: str) -> None:
    run = run_small(tmp_path, settings=small_config(num_server_rounds=2) | {setting: name})
    summary = json.loads((run / "summary.json").read_text())
    assert 0 < summary["unseen"]["accuracy_mean"] <= 1
    assert 0 < summary["unseen"]["mixture_mean"] <= 1
    assert len((run / "rounds.jsonl").read_text().splitlines()) == 2
