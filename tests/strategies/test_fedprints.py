"""FedPrints in small runs: domains are found without labels, and where there are none it is FedAvg to the byte."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedmoe.data.population_cache import open_population
from fedmoe.errors import RoundError, SettingsError
from fedmoe.federation.grouping import ClientPrint, telling
from fedmoe.flower.local_grid import LocalGrid
from fedmoe.flower.methods import methods_of
from fedmoe.flower.node import Node
from strategies.fedprints import GROUPS, LOOKS, RATIOS, UNKNOWN, FedPrints
from tests.small import (
    BackwardsGrid,
    blobs,
    newest_bytes,
    newest_state,
    rounds_of,
    run_small,
    small_config,
    small_settings,
)

DOMAINS: dict[str, Any] = {
    "clients__partition": "domain",
    "clients__domains": "identity,negative,rotate90",
    "experts__width": 16,
    "common_expert__epochs": 20,
}


def config_of(**changes: Any) -> dict[str, Any]:
    return small_config(strategy__name="fedprints", train__logit_adjustment=True, **changes)


def groups_of(run: Path) -> np.ndarray:
    groups: np.ndarray = newest_state(run).extras[GROUPS]
    return groups


@pytest.mark.parametrize("seed", range(3))
def test_clients_of_one_domain_are_one_group_and_an_unseen_client_gets_its_domains_expert(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_small(tmp_path, settings=config_of(seed=seed, **DOMAINS))
    monkeypatch.setenv("FEDMOE_HOME", str(tmp_path / "home"))
    partition = json.loads((run / "partition.json").read_text())["hash"]
    population = open_population(partition, blobs(None).y_N)
    groups = groups_of(run)
    home = np.array([population.domain_N[population.shards[client][0]] for client in population.training])
    by_home = dict(zip(home.tolist(), groups.tolist(), strict=True))
    assert [by_home[own] for own in home.tolist()] == groups.tolist()
    assert len(set(groups.tolist())) == len(set(home.tolist())) == 3
    for client, row in zip(population.unseen, rounds_of(run)[-1]["evaluate"]["clients"], strict=True):
        assert row["client_id"] == client
        assert row["experts"] == [by_home[int(population.domain_N[population.shards[client][0]])]]
    for line in rounds_of(run):
        assert all(held == [groups[int(client)]] for client, held in line["assignment"].items())


@pytest.mark.parametrize("threshold", [0.1, 500.0])
def test_each_line_tells_how_many_groups_were_found_and_by_which_ratios(tmp_path: Path, threshold: float) -> None:
    run = run_small(tmp_path, settings=config_of(strategy__fedprints__threshold=threshold, **DOMAINS))
    for line in rounds_of(run):
        assert line["groups"] == 1 + telling(np.array(line["ratios"]), 3, threshold, FedPrints.gap)
        np.testing.assert_allclose(line["ratios"], newest_state(run).extras[RATIOS], atol=1e-6)
        assert "rankings" not in line
    assert (rounds_of(run)[0]["groups"] == 1) == (threshold > 1)


@pytest.mark.parametrize("seed", range(3))
def test_with_one_group_it_is_fedavg_to_the_byte(tmp_path: Path, seed: int) -> None:
    own = run_small(tmp_path / "own", settings=config_of(seed=seed, strategy__fedprints__threshold=500.0))
    plain = run_small(
        tmp_path / "plain", settings=config_of(seed=seed) | {"strategy.name": "fedavg"}, home=tmp_path / "own" / "home"
    )
    one, other = newest_state(own), newest_state(plain)
    assert not groups_of(own).any()
    assert one.experts[0].tobytes() == other.experts[0].tobytes()
    for mine, theirs in zip(rounds_of(own), rounds_of(plain), strict=True):
        assert mine["clients"] == theirs["clients"]
        if mine["evaluate"]:
            assert mine["evaluate"]["methods"]["zero_shot"] == theirs["evaluate"]["methods"]["zero_shot"]
            assert mine["evaluate"]["methods"]["zero_shot_em"] == theirs["evaluate"]["methods"]["zero_shot_em"]


@pytest.mark.parametrize("census", [0, 4])
def test_fingerprints_are_sent_once_and_counted(tmp_path: Path, census: int) -> None:
    config = config_of(num_server_rounds=4, strategy__fedprints__census=census, **DOMAINS)
    run = run_small(tmp_path, settings=config)
    state, lines = newest_state(run), rounds_of(run)
    width = state.gate.size // 3 - 1  # type: ignore[union-attr]
    sent = []
    for line in lines:
        transfers = 2 * state.experts[0].size * 4 * len(line["assignment"])
        sent.append((line["bytes"]["down"] + line["bytes"]["up"] - transfers) / (4 * ClientPrint.values_of(width)))
    groups, trained = groups_of(run), {int(client) for line in lines for client in line["assignment"]}
    assert sum(sent) == (groups != UNKNOWN).sum(), "each client that is known has sent its print once"
    assert (groups[sorted(trained)] != UNKNOWN).all()
    assert sent[0] == 12 if census == 0 else census <= sent[0] <= census + 5
    assert state.extras[RATIOS].shape == (3,)


@pytest.mark.parametrize(("nodes", "grid"), [(1, LocalGrid), (4, BackwardsGrid)])
def test_nodes_change_no_byte(tmp_path: Path, nodes: int, grid: type[LocalGrid]) -> None:
    two = run_small(tmp_path / "two", settings=config_of(**DOMAINS))
    other = run_small(tmp_path / "other", nodes=nodes, grid=grid, settings=config_of(**DOMAINS))
    assert newest_bytes(two) == newest_bytes(other)


def test_a_resumed_run_goes_on_with_the_groups_that_were_found(tmp_path: Path) -> None:
    whole = run_small(tmp_path / "whole", settings=config_of(**DOMAINS))
    cut_off = tmp_path / "cut off"
    shutil.copytree(whole, cut_off)
    for later in sorted((cut_off / "checkpoints").iterdir())[1:]:
        later.unlink()
    config = config_of(**DOMAINS) | {"resume": str(cut_off)}
    run = run_small(tmp_path, settings=config, home=tmp_path / "whole" / "home")
    assert newest_bytes(run) == newest_bytes(whole)
    assert rounds_of(run) == rounds_of(whole)


def test_it_runs_beside_a_method_with_another_gate(tmp_path: Path) -> None:
    together = run_small(tmp_path / "a", settings=config_of(**DOMAINS) | {"evaluate.baselines": "fedjets"})
    alone = run_small(tmp_path / "b", settings=config_of(**DOMAINS))
    assert newest_bytes(together) == newest_bytes(alone)
    assert (together / "baselines" / "fedjets" / "rounds.jsonl").is_file()


def failing(clients: set[int], monkeypatch: pytest.MonkeyPatch) -> None:
    real = Node.rank

    def rank(self: Node, order: Any, arrays: Any) -> dict[str, Any]:
        asked = [client for client in order["clients"] if client not in clients]
        answer = real(self, {**order, "clients": asked}, arrays)
        lost = [
            {"stage": "rank", "client_id": client, "round_num": order["round"], "error": "gone"}
            for client in order["clients"]
            if client in clients
        ]
        return {**answer, "failures": [*answer["failures"], *lost]}

    monkeypatch.setattr(Node, "rank", rank)


def test_clients_that_fail_the_census_and_are_not_in_the_round_are_not_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run_small(tmp_path / "whole", settings=config_of(num_server_rounds=1, **DOMAINS))
    present = set(rounds_of(whole)[0]["clients"])
    failing(set(range(12)) - present, monkeypatch)
    run = run_small(tmp_path, settings=config_of(num_server_rounds=1, **DOMAINS), home=tmp_path / "whole" / "home")
    (line,) = rounds_of(run)
    assert line["completed"] == len(present) == 5
    assert len(line["failures"]) == 7


def test_a_census_that_nobody_answers_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(set(range(12)), monkeypatch)
    with pytest.raises(RoundError, match="needs those of two at least, got 0"):
        run_small(tmp_path, settings=config_of(**DOMAINS))


@pytest.mark.parametrize("name", ["fedjets", "fedmix"])
def test_its_gate_is_no_gate_for_those_who_would_have_to_train_it(name: str) -> None:
    settings = small_settings(strategy__name=name, gate__name="discriminant")
    with pytest.raises(SettingsError, match=f"a gate that {name} trains, got 'discriminant'.*hint: gate.name='mlp'"):
        methods_of(settings)
    assert methods_of(small_settings(strategy__name="fedprints", gate__name="discriminant"))


def test_a_single_client_is_refused_before_anything_runs() -> None:
    with pytest.raises(SettingsError, match="at least 2, got 1"):
        FedPrints().check(small_settings(clients__num=1, clients__per_round=1, clients__anchors_per_round=0))


def test_groups_that_other_features_found_are_not_gone_on_with_nor_served(tmp_path: Path) -> None:
    run = run_small(tmp_path, settings=config_of(num_server_rounds=4, evaluate__every=2, **DOMAINS))
    strategy = FedPrints()
    state = newest_state(run)
    strategy._check_looks(state)
    for other in ({}, {LOOKS: np.array([0])}):
        extras = {name: value for name, value in state.extras.items() if name != LOOKS} | other
        with pytest.raises(RoundError, match="features that its groups were found by"):
            strategy._check_looks(replace(state, extras=extras))
