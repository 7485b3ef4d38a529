"""Each strategy against a fact from elsewhere: plain torch, Flower's own code, its paper's equations."""

from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, MetricRecord
from flwr.serverapp import strategy as flower

from fedmoe.data.population import build_population
from fedmoe.evaluation.ranking import mixture_shares
from fedmoe.federation.ledger import FLOAT_BYTES
from fedmoe.federation.server_optimiser import Adam, Momentum, ServerOptimiser, stepped
from fedmoe.federation.state import ServerState
from fedmoe.moe.construction import build_expert
from fedmoe.moe.expert import ExpertSpec
from fedmoe.settings import Settings, from_flat
from fedmoe.training.samples import ClientSamples
from tests.by_hand import ByHand
from tests.small import blobs, newest_state, rounds_of, run_small, small_config

ROUNDS = 4


def run(folder: Path, name: str, **changes: Any) -> tuple[Path, Settings]:
    config = small_config(strategy__name=name, **{"num_server_rounds": ROUNDS, **changes})
    config.setdefault(f"strategy.{name}.init", "random")
    return run_small(folder, settings=config), from_flat(config)


# ---- server optimisers ---------------------------------------------------------------------------

OPTIMISERS = {
    "momentum": (Momentum(0.7, 0.9), flower.FedAvgM(server_learning_rate=0.7, server_momentum=0.9)),
    "adam": (Adam(0.05, 0.9, 0.99, 1e-3), flower.FedAdam(eta=0.05, beta_1=0.9, beta_2=0.99, tau=1e-3)),
}


@pytest.mark.parametrize("name", OPTIMISERS)
def test_a_server_optimiser_moves_a_model_as_flowers_own_does(name: str) -> None:
    ours, theirs = OPTIMISERS[name]
    rng = np.random.default_rng(0)
    state = ServerState(gate=None, experts=(rng.standard_normal(20).astype(np.float32),))
    theirs.current_arrays = (
        ArrayRecord({"w": Array(state.experts[0])})
        if name == "momentum"
        else {"w": state.experts[0].astype(np.float64)}
    )
    for round_num in range(1, 8):
        average = (state.experts[0] + 0.1 * rng.standard_normal(20)).astype(np.float32)
        merged = ServerState(gate=None, experts=(average,), extras=state.extras)
        state = stepped(ours, state, merged, {"expert/0"})
        answer = (ArrayRecord({"w": Array(average)}), MetricRecord())
        with mock.patch.object(flower.FedAvg, "aggregate_train", return_value=answer):
            arrays, _ = theirs.aggregate_train(round_num, [])
        assert arrays is not None
        np.testing.assert_allclose(state.experts[0], arrays["w"].numpy(), rtol=1e-5, atol=1e-6)
        theirs.current_arrays = arrays if name == "momentum" else {"w": arrays["w"].numpy()}


@pytest.mark.parametrize("optimiser", [Momentum(1.0, 0.5), Adam(0.1, 0.9, 0.99, 1e-3)])
def test_each_part_has_momenta_of_its_own_and_rests_while_nobody_holds_it(optimiser: ServerOptimiser) -> None:
    rng = np.random.default_rng(1)
    parts = [rng.standard_normal(6).astype(np.float32) for _ in range(3)]
    state = ServerState(gate=parts[0], experts=tuple(parts[1:]))
    alone = ServerState(gate=None, experts=(parts[2],))
    for held in ({"gate", "expert/1"}, {"gate", "expert/0"}, {"expert/1"}, {"gate", "expert/0", "expert/1"}):
        change = 0.1 * rng.standard_normal(6).astype(np.float32)
        experts = tuple(e + change if f"expert/{i}" in held else e for i, e in enumerate(state.experts))
        gate = state.gate + change if "gate" in held else state.gate  # type: ignore[operator]
        before, state = (
            state,
            stepped(optimiser, state, ServerState(gate=gate, experts=experts, extras=state.extras), held),
        )
        for name, array in state.to_arrays().items():
            part = name.removeprefix("extra/").split("/", 1)[-1] if name.startswith("extra/") else name
            if part not in held:
                assert array.tobytes() == before.to_arrays()[name].tobytes()
        if "expert/1" in held:  # as if it were the only one
            merged = ServerState(gate=None, experts=(alone.experts[0] + change,), extras=alone.extras)
            alone = stepped(optimiser, alone, merged, {"expert/0"})
            np.testing.assert_allclose(state.experts[1], alone.experts[0], rtol=1e-6)


def test_without_momentum_fedavgm_is_fedavg(tmp_path: Path) -> None:
    one, _ = run(tmp_path / "m", "fedavgm", strategy__fedavgm__momentum=0.0)
    two, _ = run(tmp_path / "a", "fedavg")
    np.testing.assert_allclose(newest_state(one).experts[0], newest_state(two).experts[0], rtol=0, atol=1e-6)


def test_fedjets_with_adam_steps_gate_and_experts_by_what_they_were_held(tmp_path: Path) -> None:
    folder, settings = run(tmp_path, "fedjets_adam")
    held = [0] * settings.experts.num
    for line in rounds_of(folder):
        held = [count + (load > 0) for count, load in zip(held, line["load"], strict=True)]
    extras = newest_state(folder).extras
    assert [int(extras[f"steps/expert/{i}"][0]) if n else 0 for i, n in enumerate(held)] == held
    assert int(extras["steps/gate"][0]) == ROUNDS


def test_fedjets_without_momentum_on_the_server_is_fedjets(tmp_path: Path) -> None:
    one, _ = run(tmp_path / "m", "fedjets_avgm", strategy__fedjets_avgm__momentum=0.0)
    two, _ = run(tmp_path / "a", "fedjets")
    other, _ = run(tmp_path / "b", "fedjets_avgm", strategy__fedjets_avgm__momentum=0.5)
    first, second, moved = newest_state(one), newest_state(two), newest_state(other)
    pairs = zip((first.gate, *first.experts), (second.gate, *second.experts), strict=True)
    for mine, theirs in pairs:
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-5)
    assert not np.allclose(moved.experts[0], second.experts[0], atol=1e-3)
    assert {"velocity/gate", *(f"velocity/expert/{i}" for i in range(len(moved.experts)))} >= moved.extras.keys()


# ---- pools ---------------------------------------------------------------------------------------


def test_an_ensemble_of_one_is_fedavg(tmp_path: Path) -> None:
    one, _ = run(tmp_path / "e", "ensemble", strategy__ensemble__models=1)
    two, _ = run(tmp_path / "a", "fedavg")
    for mine, other in zip(rounds_of(one), rounds_of(two), strict=True):
        assert (mine["bytes"], mine["load"], mine["train"]) == (other["bytes"], other["load"], other["train"])
    assert newest_state(one).experts[0].tobytes() == newest_state(two).experts[0].tobytes()


def test_an_ensembles_models_get_equally_many_clients_at_fedavgs_bytes(tmp_path: Path) -> None:
    folder, _ = run(tmp_path / "e", "ensemble", strategy__ensemble__models=2, clients__per_round=6)
    fedavg, _ = run(tmp_path / "a", "fedavg", clients__per_round=6)
    for line, other in zip(rounds_of(folder), rounds_of(fedavg), strict=True):
        assert line["load"] == [3, 3]
        assert (line["bytes"]["down"], line["bytes"]["up"]) == (other["bytes"]["down"], other["bytes"]["up"])
        assert line["clients"] == other["clients"]
    dealt = [line["assignment"] for line in rounds_of(folder)]
    assert len({str(one) for one in dealt}) > 1, "by lot, not by the clients' ids"


def test_fedmix_sends_all_experts_to_everybody(tmp_path: Path) -> None:
    folder, settings = run(tmp_path, "fedmix")
    state = newest_state(folder)
    assert state.gate is not None
    values = state.gate.size + sum(expert.size for expert in state.experts)
    for line in rounds_of(folder):
        assert line["bytes"]["down"] == line["bytes"]["up"] == FLOAT_BYTES * settings.clients.per_round * values
        assert line["load"] == [settings.clients.per_round] * settings.experts.num
        assert line["rankings"] == {}


@pytest.mark.parametrize("name", ["fedem", "ifca"])
def test_a_pool_of_one_is_fedavg(tmp_path: Path, name: str) -> None:
    one, _ = run(tmp_path / "one", name, experts__num=1, experts__top_k=1, clients__anchors_per_round=0)
    two, _ = run(tmp_path / "two", "fedavg", experts__num=1, experts__top_k=1, clients__anchors_per_round=0)
    np.testing.assert_allclose(newest_state(one).experts[0], newest_state(two).experts[0], rtol=0, atol=1e-6)


def test_ifca_gathers_clients_by_what_their_inputs_look_like(tmp_path: Path) -> None:
    """Half of the clients hold negatives: what fits one half does not fit the other."""
    agreements = []
    for seed in range(3):
        folder, settings = run(
            tmp_path / str(seed),
            "ifca",
            seed=seed,
            num_server_rounds=12,
            clients__partition="domain",
            clients__domains="identity,negative",
            clients__anchors_per_round=0,
            clients__num=20,
            clients__per_round=10,
            experts__num=2,
            train__epochs=3,
        )
        who, lines = build_population(blobs(None), settings), rounds_of(folder)  # type: ignore[arg-type]
        for line in lines:
            for client, scores in line["rankings"].items():
                assert line["assignment"][client] == [int(np.argmax(scores))], "the model of least loss"
        chosen = [(int(who.domain_N[who.shards[int(c)][0]]), held[0]) for c, held in lines[-1]["assignment"].items()]
        assert len({domain for domain, _ in chosen}) == 2
        same = float(np.mean([domain == model for domain, model in chosen]))
        agreements.append(max(same, 1 - same))
    assert np.mean(agreements) > 0.9, agreements


@pytest.mark.parametrize("seed", range(4))
def test_a_clients_shares_are_the_likeliest_ones(seed: int) -> None:
    spec = ExpertSpec(in_shape=(1, 2, 2), num_classes=3, width=8)
    pool = [build_expert("mlp", spec, 10 * seed + i) for i in range(3)]
    stream = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (60, 1, 2, 2), generator=stream, dtype=torch.uint8)
    scale = {"mean": torch.full((1, 1, 1), 128.0), "std": torch.full((1, 1, 1), 64.0)}
    unlabelled = ClientSamples(images=images, y=torch.zeros(60).long(), gate_input=torch.zeros(60, 0), **scale)
    x_BCHW = unlabelled.inputs(torch.arange(60))
    with torch.no_grad():
        probs_MBC = torch.stack([8 * expert(x_BCHW) for expert in pool]).softmax(dim=2)
    source_B = torch.tensor([0] * 45 + [2] * 15)  # three quarters of the labels are the first expert's
    y_B = probs_MBC[source_B, torch.arange(60)].argmax(dim=1)
    (shares,) = mixture_shares(lambda i: pool[i], 3, [replace(unlabelled, y=y_B)], [None])
    with torch.no_grad():
        probs_BM = torch.stack([e(x_BCHW).double().softmax(1)[torch.arange(60), y_B] for e in pool], dim=1)

    def log_likelihood(weights: torch.Tensor) -> float:
        return float((probs_BM @ weights).log().sum())

    found = torch.tensor(shares, dtype=torch.float64)
    assert float(found.sum()) == pytest.approx(1)
    assert (found >= 0).all()
    rivals = torch.distributions.Dirichlet(torch.ones(3)).sample((500,)).double()
    assert log_likelihood(found) >= max(log_likelihood(rival) for rival in [*rivals, *torch.eye(3).double()]) - 0.02


# ---- pooled samples ------------------------------------------------------------------------------


@pytest.mark.parametrize("trainer", ["loop", "stacked"])
@pytest.mark.parametrize("seed", [0, 1])
def test_centralised_training_is_sgd_on_the_pooled_samples(tmp_path: Path, seed: int, trainer: str) -> None:
    folder, settings = run(tmp_path, "centralised", seed=seed, train__trainer=trainer, train__epochs=2)
    hand = ByHand(settings)
    weights = hand.start
    for r in range(1, ROUNDS + 1):
        clients = hand.sampled(r)
        weights = hand.train(clients[0], r, weights, pooled=clients)
        assert rounds_of(folder)[r - 1]["train"]["examples"] == sum(len(hand.who.shards[client]) for client in clients)
    np.testing.assert_allclose(newest_state(folder).experts[0], weights, rtol=0, atol=2e-5)
