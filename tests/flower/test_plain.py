"""Any plain Flower strategy runs on the same clients."""

import json
from pathlib import Path

import numpy as np
import pytest

from fedmoe.errors import RoundError
from fedmoe.flower.local_run import read_config
from fedmoe.flower.methods import methods_of
from fedmoe.references import short_name
from fedmoe.settings import from_flat
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
    assert set(summary["methods"]) == {short_name(config["strategy.name"], "strategies"), "fedavg", "common expert"}


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


def test_a_cut_off_plain_strategy_starts_again_and_ends_with_the_same_bytes(tmp_path: Path) -> None:
    config = small_config() | FLOWERS_FEDAVG
    run = run_small(tmp_path, settings=config)
    whole = newest_bytes(run)
    (run / "checkpoints" / "round-000003.safetensors").unlink()
    run_small(tmp_path, settings=config | {"resume": str(run)})
    assert newest_bytes(run) == whole
    assert [line["round"] for line in rounds_of(run)] == [1, 2, 3]


def test_flowers_fedprox_is_not_its_fedavg(tmp_path: Path) -> None:
    prox, plain = (
        newest_state(run_small(tmp_path, settings=small_config() | FLOWERS_FEDAVG | {"strategy.name": name, **more}))
        for name, more in (
            ("flwr.serverapp.strategy:FedProx", {"strategy.flwr-fedprox.proximal-mu": 5.0}),
            ("flwr.serverapp.strategy:FedAvg", {}),
        )
    )
    assert np.abs(prox.experts[0] - plain.experts[0]).max() > 1e-3


@pytest.mark.parametrize("name", ["FedAvg", "FedProx", "FedAdam"])
def test_they_run_on_the_simulations_as_shipped(tmp_path: Path, name: str) -> None:
    override = f"strategy.name='flwr.serverapp.strategy:{name}' evaluate.baselines='fedavg'"
    _, config = read_config(Path(__file__).parents[2] / "simulations" / "quickstart", [override])
    assert [method.name for method in methods_of(from_flat(config))][1:] == ["fedavg"]


def test_matched_bytes_hold_in_a_run_by_its_ledger(tmp_path: Path) -> None:
    flower = "flwr.serverapp.strategy:FedAvg"
    config = small_config(evaluate__baselines=f"fedavg,{flower}", num_server_rounds=2, evaluate__every=2)
    plain, matched = (
        run_small(tmp_path / str(on), settings=config | {"clients.matched-bytes": on}, home=tmp_path / "home")
        for on in (False, True)
    )
    assert rounds_of(plain) == rounds_of(matched), "FedJETs stays as it is"
    for name in ("fedavg", "flwr_fedavg"):
        pairs = zip(rounds_of(matched), rounds_of(matched / "baselines" / name), strict=True)
        for theirs, ours in pairs:
            assert len(theirs["clients"]) == 5
            assert len(ours["clients"]) == 2 + 3 * 2
            sent, wanted = sum(ours["bytes"]["by_expert"]), sum(theirs["bytes"]["by_expert"])
            assert sent == wanted, "2 anchors with an expert, 3 clients with two"
            assert ours["bytes"]["down"] < theirs["bytes"]["down"], "FedJETs sends a gate as well"


def test_the_moving_average_is_what_gets_evaluated(tmp_path: Path) -> None:
    config = small_config() | FLOWERS_FEDAVG
    last, average = (
        rounds_of(run_small(tmp_path, settings=config | {"evaluate.ema": decay}))[-1] for decay in (0.0, 0.99)
    )
    assert last["train"] == average["train"]
    assert last["evaluate"] != average["evaluate"]


def test_a_client_that_fails_is_named(tmp_path: Path) -> None:
    config = small_config() | FLOWERS_FEDAVG | {"train.learning-rate": 1e30, "clients.min-completed": 0.9}
    with pytest.raises(RoundError, match=r"min-completed|usable update"):
        run_small(tmp_path, settings=config)
