"""Any plain Flower strategy runs on the same clients."""

import json
from pathlib import Path

import numpy as np
import pytest

from fedmoe.errors import RunFolderError
from tests.small import newest_bytes, newest_state, rounds_of, run_small, small_config

FLOWERS_FEDAVG = {"strategy.name": "flwr.serverapp.strategy:FedAvg", "evaluate.baselines": ""}
EVERYONE = {"clients.per-round": 12, "clients.anchors-per-round": 0, "experts.init": "common"}


@pytest.mark.parametrize("name", ["FedAdam", "FedAvgM", "FedMedian"])
def test_flowers_own_strategies_train_and_are_recorded(tmp_path: Path, name: str) -> None:
    config = small_config() | {"strategy.name": f"flwr.serverapp.strategy:{name}", "evaluate.baselines": "fedavg"}
    run = run_small(tmp_path, settings=config)
    lines = rounds_of(run)
    summary = json.loads((run / "summary.json").read_text())
    assert [line["round"] for line in lines] == [1, 2, 3]
    assert lines[-1]["evaluate"] is not None
    assert all(line["train"]["examples"] > 0 and line["bytes"]["down"] > 0 for line in lines)
    assert set(summary["methods"]) == {name.lower(), "fedavg", "common expert"}


@pytest.mark.parametrize("seed", range(2))
def test_with_all_clients_in_every_round_flowers_fedavg_is_ours(tmp_path: Path, seed: int) -> None:
    config = small_config(seed=seed) | EVERYONE
    flowers = newest_state(run_small(tmp_path, settings=config | FLOWERS_FEDAVG))
    ours = newest_state(run_small(tmp_path, settings=config | {"strategy.name": "fedavg", "evaluate.baselines": ""}))
    np.testing.assert_allclose(flowers.experts[0], ours.experts[0], atol=1e-5)


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    runs = [run_small(tmp_path, settings=small_config(seed=4) | FLOWERS_FEDAVG) for _ in range(2)]
    other = run_small(tmp_path, settings=small_config(seed=5) | FLOWERS_FEDAVG)
    assert newest_bytes(runs[0]) == newest_bytes(runs[1]) != newest_bytes(other)


def test_a_plain_strategy_cannot_go_on_and_says_so(tmp_path: Path) -> None:
    config = small_config() | FLOWERS_FEDAVG
    run = run_small(tmp_path, settings=config)
    (run / "checkpoints" / "round-000003.safetensors").unlink()
    with pytest.raises(RunFolderError, match="must start at round 1, got round 3"):
        run_small(tmp_path, settings=config | {"resume": str(run)})
