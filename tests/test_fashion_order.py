"""The README's claim at reduced size: on aligned Fashion-MNIST, FedJETs > FedAvg, and > FedJETs with a random gate."""

import json
from pathlib import Path

import pytest

from fedmoe.flower.client_app import app as client_app
from fedmoe.flower.local_grid import LocalGrid
from fedmoe.flower.local_run import read_config
from fedmoe.flower.server_app import run

ROOT = Path(__file__).parents[1]
REDUCED = "num-server-rounds=40 clients.samples=250 evaluate.every=40 evaluate.samples=1500"
SYSTEM_WIDE = Path("/usr/share/datasets/fashion-mnist")


def accuracies(output: Path, overrides: str) -> dict[str, float]:
    if not SYSTEM_WIDE.is_dir():
        pytest.skip("Fashion-MNIST is not here; hint: Debian's package dataset-fashion-mnist")
    _, config = read_config(ROOT / "simulations" / "fashion_mnist", [f"{REDUCED} {overrides}"])
    config |= {"output-dir": str(output), "data.root": str(SYSTEM_WIDE)}
    summary = json.loads((run(LocalGrid(client_app, 2, config), config) / "summary.json").read_text())
    assert summary["dataset"]["real"]
    assert summary["partition"]["name"] == "aligned"
    return {
        method: figures["zero_shot"]["mean"] for method, figures in summary["methods"].items() if "zero_shot" in figures
    }


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0])
def test_the_gate_beats_one_model_by_four_points_and_chance_by_eight(tmp_path: Path, seed: int) -> None:
    learned = accuracies(tmp_path, f"seed={seed} evaluate.baselines='fedavg'")
    by_lot = accuracies(tmp_path, f"seed={seed} gate.name='random' evaluate.baselines=''")
    assert learned["fedjets"] >= learned["fedavg"] + 0.04
    assert learned["fedjets"] >= by_lot["fedjets"] + 0.08
