"""The strategies' battery: one row a file in `strategies/`; a file without a row fails."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch

from fedmoe.data.embeddings import EmbeddingTable
from fedmoe.data.population import build_population
from fedmoe.errors import SettingsError
from fedmoe.evaluation.zero_shot import serve_clients
from fedmoe.federation.grouping import print_of
from fedmoe.federation.job import Term
from fedmoe.federation.ledger import Ledger
from fedmoe.federation.state import ServerState
from fedmoe.flower.federation import Federation
from fedmoe.flower.methods import build_strategy
from fedmoe.flower.strategy import ExpertStrategy
from fedmoe.flower.wire import job_from_json, job_to_json
from fedmoe.moe.construction import build_expert, build_gate, gate_class
from fedmoe.moe.expert import ExpertSpec
from fedmoe.moe.gate import GateSpec
from fedmoe.references import known_names
from fedmoe.training.objective import load_objective
from fedmoe.training.sample_store import SampleStore
from fedmoe.training.samples import Lots
from strategies.fedjets import FedJETs
from tests.small import NUM_CLASSES, blobs, small_settings

WIDTH = 4  # of fingerprints


@dataclass(frozen=True)
class Row:
    """What is particular about a strategy.

    Attributes:
        pool: the size of its pool under `SMALL`, where M=3.
        held: how many experts a normal client holds where K=2.
        wrong: arguments that it must refuse.
        others: argument sets beside the defaults to go through the battery.
        alone: whether one client does the work of all.
        trains_gate: whether clients train the gate, where there is one.
        everyone: whether all training clients take part in each round.
        answers: the experts that an unseen client gets, where that is not K.
    """

    pool: int
    held: int
    wrong: tuple[dict[str, Any], ...] = ()
    others: tuple[dict[str, Any], ...] = field(default=())
    alone: bool = False
    answers: int = 0
    trains_gate: bool = True
    everyone: bool = False


STRATEGIES = {
    "advmoe": Row(
        pool=3,
        held=2,
        wrong=(
            {"training": "both"},
            {"eps": 0.0},
            {"eps": 1.1},
            {"attack_step": -0.1},
            {"attack_steps": 0},
            {"beta": -1.0},
            {"routing": -1.0},
            {"warm": -1},
            {"output": "vote"},
        ),
        others=({"training": "joint", "warm": 2}, {"training": "plain"}, {"output": "logit", "attack_step": 0.01}),
    ),
    "canonical": Row(
        pool=3,
        held=2,
        wrong=({"gates": "mode"}, {"over": "fedavg"}, {"form": 1.5}),
        others=({"gates": "median"}, {"form": False}),
    ),
    "centralised": Row(pool=1, held=1, alone=True),
    "ditto": Row(pool=1, held=1, wrong=({"strength": -1.0},), others=({"strength": 0.0},)),
    "ensemble": Row(pool=2, held=1, wrong=({"models": 0},), others=({"models": 1},), answers=2),
    "fedadam": Row(
        pool=1, held=1, wrong=({"rate": 0.0}, {"tau": 0.0}, {"beta_1": 1.0}, {"beta_2": -0.1}), others=({"rate": 1},)
    ),
    "fedavgm": Row(pool=1, held=1, wrong=({"rate": 0.0}, {"momentum": 1.0}), others=({"momentum": 0.0},)),
    "fedem": Row(pool=3, held=3, answers=3),
    "fedavg": Row(pool=1, held=1, wrong=({"no_such": 1}, {"init": 3})),
    "fedavg_own": Row(
        pool=1, held=1, wrong=({"own": "range"}, {"own": "*.bias,"}), others=({"own": "*.bias, head.*"},)
    ),
    "fedavg_finetuned": Row(pool=1, held=1, wrong=({"epochs": 0},), others=({"epochs": 3},)),
    "fedjets": Row(
        pool=3,
        held=2,
        wrong=(
            {"aggregation": "median"},
            {"weighting": "loss"},
            {"output": "vote"},
            {"renormalise": "yes"},
            {"top_k": 2},
        ),
        others=(
            {"aggregation": "vote", "weighting": "examples"},
            {"aggregation": "mean-logit", "output": "logit", "renormalise": False},
            {"anchor_gate_labels": True},
        ),
    ),
    "fedjets_adam": Row(pool=3, held=2, wrong=({"rate": -1.0}, {"output": "vote"}), others=({"output": "logit"},)),
    "fedjets_avgm": Row(pool=3, held=2, wrong=({"momentum": 1.0}, {"output": "vote"}), others=({"output": "logit"},)),
    "fedjets_found": Row(
        pool=3,
        held=2,
        wrong=({"census": -1}, {"weighting": "loss"}),
        others=({"census": 0}, {"census": 6}),
    ),
    "fedprints": Row(
        pool=3,
        held=1,
        answers=1,
        trains_gate=False,
        wrong=({"threshold": 0.0}, {"gap": 1.0}, {"census": 1}, {"census": -1}),
        others=({"census": 0}, {"census": 4, "threshold": 3}),
    ),
    "logistic_em": Row(
        pool=3,
        held=3,
        answers=3,
        everyone=True,
        wrong=({"ridge": -0.1}, {"bound": 0.0}, {"missing": 1}),
        others=({"missing": True}, {"ridge": 0.0, "bound": 3}),
    ),
    "fedmix": Row(pool=3, held=3, answers=3, others=({"output": "logit"},)),
    "fedrep": Row(pool=1, held=1, wrong=({"head_epochs": 0},), others=({"head_epochs": 2},)),
    "ifca": Row(pool=3, held=1, answers=1),
    "free_agent": Row(
        pool=3,
        held=2,
        wrong=(
            *({"false_alarms": 0.0}, {"warm_up": 1}, {"margin": -0.1}, {"rounds": 0}, {"trial": 0}),
            *({"term": -1}, {"agents": -1}, {"newcomer": "body"}, {"over": "free_agent"}, {"top_k": 2}),
        ),
        others=({"newcomer": "random", "term": 2}, {"agents": 0, "accuracy": 2, "penalty": 0.0}),
    ),
    "lasso": Row(
        pool=3,
        held=2,
        wrong=({"strength": -1.0}, {"gate_strength": -0.1}, {"server": -1.0}, {"over": "no_such"}),
        others=({"strength": 0.0}, {"gate_strength": 1.0, "server": 0.0}),
    ),
    "local_only": Row(pool=1, held=1),
    "prefetch": Row(pool=3, held=2, wrong=({"version": "old"}, {"over": "prefetch"}), others=({"version": "latest"},)),
    "fedprox": Row(pool=1, held=1, wrong=({"mu": -0.1}, {"mu": "much"}), others=({"mu": 0.0}, {"mu": 2})),
    "scaffold": Row(pool=1, held=1, wrong=({"eta": 1},)),
    "self_tuning": Row(pool=1, held=1, wrong=({"tune": "no"},), others=({"tune": False},)),
    "taskmoe": Row(
        pool=3,
        held=3,
        answers=3,
        wrong=({"heads": "group"}, {"told": True}, {"output": "vote"}),
        others=({"output": "logit"},),
    ),
}
CASES = [(name, arguments) for name, row in STRATEGIES.items() for arguments in ({}, *row.others)]
ROUNDS = range(1, 6)


def build(name: str, arguments: dict[str, Any], **changes: Any) -> ExpertStrategy:
    """Returns the strategy, bound to the small population."""
    table = {f"strategy__{name}__{key}": value for key, value in arguments.items()}
    settings = small_settings(strategy__name=name, **table, **changes)
    strategy = build_strategy(name, settings)
    assert isinstance(strategy, ExpertStrategy)
    ledger = Ledger(gate_size=1, expert_size=1, num_experts=strategy.pool_size(settings), common_size=0)
    population = build_population(blobs(None), settings)
    run = {
        "population": population,
        "plan": {},
        "ledger": ledger,
        "recorder": None,
        "layout": {"expert": (), "gate": ()},
    }
    strategy.bind(Federation(settings=settings, **run))
    gate = np.zeros(strategy.num_experts * (WIDTH + 1), dtype=np.float32)
    linear = np.zeros(NUM_CLASSES * (WIDTH + 1), dtype=np.float32)
    strategy.state = ServerState(gate=gate, experts=(linear,) * strategy.num_experts)
    return strategy


def rankings_for(strategy: ExpertStrategy, clients: tuple[int, ...], seed: int) -> dict[int, tuple[float, ...]]:
    """Returns what `assign` is told: scores of those who were asked, nothing of the others."""
    rng = np.random.default_rng(seed)
    asked = set(strategy.ranked(clients))
    if strategy.query() in ("fingerprint", "embedding"):
        prints = {c: print_of(rng.standard_normal((9, WIDTH)).astype(np.float32)).numbers() for c in sorted(asked)}
        return {client: tuple(prints.get(client, ())) for client in {*asked, *clients}}
    return {c: tuple(rng.random(strategy.num_experts).tolist()) if c in asked else () for c in clients}


def one_round(strategy: ExpertStrategy, round_num: int, seed: int = 0) -> tuple[tuple[int, ...], dict[int, Any]]:
    rng = np.random.default_rng([seed, round_num])
    clients = tuple(strategy.sample(round_num, tuple(strategy.federation.population.training), rng))
    rankings = rankings_for(strategy, clients, seed)
    strategy.rankings = {client: scores for client, scores in rankings.items() if scores}
    strategy.state = strategy.begin(round_num, strategy.state)
    return clients, dict(strategy.assign(round_num, {client: rankings[client] for client in clients}, rng))


def test_every_strategy_has_a_row() -> None:
    assert sorted(STRATEGIES) == known_names("strategies")


@pytest.mark.parametrize(("name", "wrong"), [(name, w) for name, row in STRATEGIES.items() for w in row.wrong])
def test_wrong_arguments_are_refused(name: str, wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=f"strategy.{name}"):
        build(name, wrong)


@pytest.mark.parametrize(("name", "arguments"), CASES)
def test_it_samples_as_many_different_training_clients_as_asked(name: str, arguments: dict[str, Any]) -> None:
    seen = set()
    for per_round, anchors in ((5, 2), (4, 0), (3, 3)):
        strategy = build(name, arguments, clients__per_round=per_round, clients__anchors_per_round=anchors)
        for round_num in ROUNDS:
            clients, assignment = one_round(strategy, round_num)
            everyone = strategy.federation.population.num_training
            assert len(clients) == len(set(clients)) == (everyone if STRATEGIES[name].everyone else per_round)
            assert set(clients) <= set(strategy.federation.population.training)
            assert set(assignment) == ({min(clients)} if STRATEGIES[name].alone else set(clients))
            seen |= set(clients)
    assert len(seen) > 9, "hardly any client is ever sampled"


@pytest.mark.parametrize(("per_round", "anchors", "top_k"), [(5, 2, 2), (5, 0, 1), (4, 3, 3), (6, 1, 2)])
@pytest.mark.parametrize("name", sorted(set(STRATEGIES) - {"local_only", "centralised", "logistic_em"}))
def test_with_matched_bytes_it_sends_as_many_experts_as_fedjets_but_for_less_than_a_client(
    name: str, per_round: int, anchors: int, top_k: int
) -> None:
    changes = {"clients__per_round": per_round, "clients__anchors_per_round": anchors, "experts__top_k": top_k}
    changes |= {"clients__num": 20}

    def sent(strategy: ExpertStrategy) -> tuple[int, int]:
        clients, assignment = one_round(strategy, 1)
        ledger = Ledger(gate_size=7, expert_size=100, num_experts=strategy.num_experts, common_size=0)
        jobs = [job for client, held in assignment.items() for job in strategy.jobs(1, client, held)]
        asked = strategy.ranked(clients)
        told = ledger.round(jobs, asked, asked, strategy.ranking_indices(), strategy.ranks_by)
        # SCAFFOLD's variates are counted with the experts that they belong to
        return sum(told.by_expert), len(clients)

    theirs, _ = sent(build("fedjets", {}, **changes))
    assert theirs == 4 * 2 * 100 * (anchors + (per_round - anchors) * top_k)
    ours, clients = sent(build(name, {}, clients__matched_bytes=True, **changes))
    assert ours <= theirs
    assert theirs - ours < ours / clients
    if STRATEGIES[name].pool == 1 and name != "scaffold":
        assert (ours, clients) == (theirs, anchors + (per_round - anchors) * top_k)
    if name.startswith("fedjets"):
        assert clients == per_round


@pytest.mark.parametrize(("name", "clients"), [("local_only", 5), ("centralised", 8), ("fedavg", 8)])
def test_with_matched_bytes_those_that_send_nothing_take_as_many_clients_as_ever(name: str, clients: int) -> None:
    assert len(one_round(build(name, {}, clients__matched_bytes=True), 1)[0]) == clients


@pytest.mark.parametrize(("num", "sampled"), [(12, 12), (24, 24), (26, 25), (40, 25)])
def test_matched_bytes_take_all_training_clients_at_the_most(num: int, sampled: int) -> None:
    changes = {"clients__num": num, "clients__per_round": 9, "clients__anchors_per_round": 1, "experts__top_k": 3}
    assert len(one_round(build("fedavg", {}, clients__matched_bytes=True, **changes), 1)[0]) == sampled


@pytest.mark.parametrize(("name", "arguments"), CASES)
def test_it_assigns_within_the_pool_without_repeats(name: str, arguments: dict[str, Any]) -> None:
    strategy = build(name, arguments)
    pool = STRATEGIES[name].pool
    assert strategy.num_experts == arguments.get("models", pool)
    for round_num in ROUNDS:
        _, assignment = one_round(strategy, round_num)
        for client, held in assignment.items():
            assert set(held) <= set(range(strategy.num_experts))
            inner = getattr(strategy, "inner", strategy)
            own = isinstance(inner, FedJETs) and client in inner.anchors()
            wanted = {1} if own else {STRATEGIES[name].held}
            # in the round that finds anchors some others get one, too
            assert len(held) == len(set(held))
            assert len(held) in (wanted if strategy.query() != "embedding" else {1, 2})


@pytest.mark.parametrize(("name", "arguments"), CASES)
def test_its_choices_depend_on_the_given_stream_alone(name: str, arguments: dict[str, Any]) -> None:
    one, two = build(name, arguments), build(name, arguments)
    one_round(one, 1)
    start = one.state

    def rounds(strategy: ExpertStrategy, numbers: Iterable[int], seed: int) -> list[Any]:
        found = []
        for number in numbers:
            strategy.state = start
            found.append(one_round(strategy, number, seed=seed))
        return found

    first = rounds(one, ROUNDS, 3)
    assert first == rounds(two, reversed(ROUNDS), 3)[::-1], "a strategy must not count on order"
    assert (first == rounds(two, ROUNDS, 4)) == STRATEGIES[name].everyone


@pytest.mark.parametrize(("name", "arguments"), CASES)
def test_its_jobs_travel_as_json_and_name_objectives_that_exist(name: str, arguments: dict[str, Any]) -> None:
    strategy = build(name, arguments)
    for round_num in ROUNDS:
        _, assignment = one_round(strategy, round_num)
        for client, held in assignment.items():
            jobs = strategy.jobs(round_num, client, tuple(held))
            for job in jobs:
                assert (job.client_id, job.round_num, job.experts) == (client, round_num, tuple(held))
                assert job.weighting in ("uniform", "examples")
                assert job.gate == (strategy.has_gate and STRATEGIES[name].trains_gate)
                assert job_from_json(json.loads(json.dumps(job_to_json(job)))) == job
                assert all(callable(load_objective(turn.objective)) for turn in job.steps)


@pytest.mark.parametrize("gate", ["mlp", "uniform", "random", "oracle", "frozen"])
@pytest.mark.parametrize(("name", "arguments"), CASES)
def test_it_serves_a_client_that_it_has_never_seen(name: str, arguments: dict[str, Any], gate: str) -> None:
    strategy = build(name, arguments)
    data, settings = blobs(None), strategy.federation.settings
    rng = np.random.default_rng(0)
    table = EmbeddingTable(
        "key",
        rng.standard_normal((len(data.y_N), 5)).astype(np.float32),
        rng.standard_normal((len(data.y_N), NUM_CLASSES)).astype(np.float32),
    )
    store = SampleStore.of(data, strategy.federation.population, table, torch.device("cpu"))
    spec = ExpertSpec(in_shape=(1, 4, 4), num_classes=NUM_CLASSES, width=5)
    pool = [build_expert("mlp", spec, i) for i in range(strategy.num_experts)]
    gate = strategy.gate or gate
    width = store.gate_width(gate_class(gate).reads, len(pool))
    module = build_gate(gate, GateSpec(in_features=width, num_experts=len(pool), hidden=4), 0)
    prior = torch.full((NUM_CLASSES,), 1 / NUM_CLASSES, dtype=torch.float64)
    for client in strategy.federation.population.unseen:
        samples = store.load(strategy.federation.population.shards[client], module.reads, Lots(client, len(pool)))
        (result,) = serve_clients(
            module if strategy.has_gate else None,
            lambda i: pool[i],
            len(pool),
            [samples],
            strategy.serving(),
            prior,
            [np.random.default_rng(1)],
        )
        wanted = STRATEGIES[name].answers or settings.experts.top_k
        assert len(result.experts) == len(set(result.experts)) == min(wanted, len(pool))
        assert set(result.experts) <= set(range(len(pool)))
        assert all(0 <= accuracy <= 1 for accuracy in result.accuracies.values())
        assert {"zero_shot", "zero_shot_em"} <= set(result.accuracies)


@pytest.mark.parametrize(("name", "arguments"), CASES)
def test_merging_nothing_changes_nothing(name: str, arguments: dict[str, Any]) -> None:
    from fedmoe.federation.merging import Sums
    from fedmoe.flower.replies import Replies

    strategy = build(name, arguments)
    rng = np.random.default_rng(0)
    state = ServerState(
        gate=rng.standard_normal(4).astype(np.float32) if strategy.has_gate else None,
        experts=tuple(rng.standard_normal(6).astype(np.float32) for _ in range(strategy.num_experts)),
    )
    nothing = Replies(rows=[], sums=Sums(True), updates=(), failures=[])
    merged = strategy.merge(1, state, nothing)
    assert merged.to_arrays().keys() == state.to_arrays().keys()
    for part, array in merged.to_arrays().items():
        assert array.tobytes() == state.to_arrays()[part].tobytes()


def test_fedjets_samples_as_many_anchors_as_asked() -> None:
    for anchors in (0, 1, 3):
        strategy = build("fedjets", {}, clients__anchors_per_round=anchors)
        own = strategy.federation.population.anchors
        for round_num in ROUNDS:
            clients, assignment = one_round(strategy, round_num)
            assert sum(client in own for client in clients) == anchors
            assert all(assignment[client] == (own[client],) for client in clients if client in own)
            assert set(strategy.ranked(clients)) == set(clients) - set(own)


def test_a_normal_client_of_fedjets_gets_its_best_experts_best_first() -> None:
    strategy = build("fedjets", {})
    (client, *_) = strategy.federation.population.normal
    held = strategy.assign(1, {client: (0.2, 0.5, 0.3)}, np.random.default_rng(0))
    assert held == {client: (1, 2)}


@pytest.mark.parametrize("labels", [True, False])
def test_fedjets_gives_anchors_their_two_losses_and_others_the_joint_one(labels: bool) -> None:
    strategy = build("fedjets", {"anchor_gate_labels": labels, "output": "logit", "renormalise": False})
    assert strategy.job(1, 0, (0,)).objective == (Term("anchor", {"gate_labels": labels}),)
    normal = strategy.job(1, 11, (0, 2))
    assert normal.objective == (Term("mixture", {"output": "logit", "renormalise": False}),)


@pytest.mark.parametrize("mu", [0.01, 3])
def test_fedprox_is_fedavg_with_a_proximal_term(mu: float) -> None:
    prox, plain = build("fedprox", {"mu": mu}).job(2, 7, (0,)), build("fedavg", {}).job(2, 7, (0,))
    assert prox.objective == (*plain.objective, Term("prox", {"mu": mu}))
    assert plain.objective == (Term("dense"),)
    assert prox.weighting == plain.weighting == "examples"
