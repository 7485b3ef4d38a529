"""FedJETs that finds its anchors, in small runs: it finds the true ones without labels, and goes on as FedJETs."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedmoe.data.population_cache import open_population
from fedmoe.errors import RoundError, SettingsError
from fedmoe.federation.grouping import ClientPrint
from fedmoe.flower.local_grid import LocalGrid
from fedmoe.flower.methods import build_strategy
from strategies.fedjets_found import ANCHORS
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
from tests.strategies.test_fedprints import failing

GOOD_EYES: dict[str, Any] = {"experts__width": 16, "common_expert__epochs": 20}


def config_of(**changes: Any) -> dict[str, Any]:
    return small_config(strategy__name="fedjets_found", **GOOD_EYES, **changes)


@pytest.mark.parametrize("seed", range(4))
def test_it_finds_the_clients_that_hold_one_label_group(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    aligned = {"clients__partition": "aligned", "clients__samples": 40, "clients__num": 9}
    run = run_small(tmp_path, settings=config_of(seed=seed, num_server_rounds=1, **aligned))
    monkeypatch.setenv("FEDMOE_HOME", str(tmp_path / "home"))
    population = open_population(json.loads((run / "partition.json").read_text())["hash"], blobs(None).y_N)
    found = newest_state(run).extras[ANCHORS].tolist()
    assert sorted(found) == sorted(population.anchors)
    assert rounds_of(run)[0]["anchors"] == found


def test_from_the_second_round_on_anchors_train_their_own_expert_and_others_rank(tmp_path: Path) -> None:
    config = config_of(num_server_rounds=5, clients__anchors_per_round=2)
    lines = rounds_of(run_small(tmp_path, settings=config))
    anchors = {client: expert for expert, client in enumerate(lines[0]["anchors"])}
    assert len(anchors) == 3
    assert "rankings" not in lines[0]
    for line in lines:
        assert line["anchors"] == lines[0]["anchors"]
        own = {int(client): held for client, held in line["assignment"].items()}
        assert sum(len(set(held)) for held in own.values()) == 2 * 1 + 3 * 2
        for client, held in own.items() if line["round"] > 1 else ():
            assert held == [anchors[client]] if client in anchors else len(held) == 2
    for line in lines[1:]:
        assert len(anchors.keys() & set(line["clients"])) == 2
        assert line["rankings"].keys() == {str(c) for c in line["clients"] if c not in anchors}


@pytest.mark.parametrize("census", [0, 4])
def test_its_bytes_are_those_of_fedjets_and_the_prints(tmp_path: Path, census: int) -> None:
    config = config_of(num_server_rounds=3, strategy__fedjets_found__census=census)
    run = run_small(tmp_path, settings=config)
    state, lines = newest_state(run), rounds_of(run)
    assert state.gate is not None
    for number, line in enumerate(lines):
        held = [len(own) for own in line["assignment"].values()]
        models = 2 * 4 * (state.gate.size * len(held) + state.experts[0].size * sum(held))
        rest = line["bytes"]["down"] + line["bytes"]["up"] - models
        normal = [client for client in line["clients"] if client not in lines[0]["anchors"]]
        if number:
            assert rest == 4 * 2 * len(normal)
        else:
            # embeddings of 16 units
            prints, left = divmod(rest, 4 * ClientPrint.values_of(16))
            assert left == 0
            assert prints == (census or 12)


@pytest.mark.parametrize(("nodes", "grid"), [(1, LocalGrid), (4, BackwardsGrid)])
def test_the_number_of_nodes_changes_no_byte(tmp_path: Path, nodes: int, grid: type[LocalGrid]) -> None:
    two = run_small(tmp_path / "two", settings=config_of())
    other = run_small(tmp_path / "other", nodes=nodes, grid=grid, settings=config_of())
    assert newest_bytes(two) == newest_bytes(other)


def test_a_resumed_run_keeps_its_anchors(tmp_path: Path) -> None:
    whole = run_small(tmp_path / "whole", settings=config_of())
    cut_off = tmp_path / "cut off"
    shutil.copytree(whole, cut_off)
    for later in sorted((cut_off / "checkpoints").iterdir())[1:]:
        later.unlink()
    run = run_small(tmp_path, settings=config_of() | {"resume": str(cut_off)}, home=tmp_path / "whole" / "home")
    assert newest_bytes(run) == newest_bytes(whole)
    assert rounds_of(run) == rounds_of(whole)


def test_it_needs_no_client_that_was_dealt_as_an_anchor(tmp_path: Path) -> None:
    run = run_small(tmp_path, settings=config_of(clients__deal_anchors=False, num_server_rounds=4))
    lines = rounds_of(run)
    anchors = {client: [expert] for expert, client in enumerate(lines[0]["anchors"])}
    assert len(anchors) == 3
    for line in lines[1:]:
        own = {int(client): held for client, held in line["assignment"].items()}
        assert {client: held for client, held in own.items() if client in anchors}.items() <= anchors.items()
        assert len(anchors.keys() & own.keys()) == 2
    assert not json.loads((run / "partition.json").read_text())["anchors"]


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("fedjets_found", {"clients__anchors_per_round": 0}, "anchors-per-round=0; hint: 1 or more"),
        ("fedjets_found", {"strategy__fedjets_found__census": 2}, "each of the 3 experts .* got 2"),
        ("fedjets", {"clients__deal_anchors": False}, "deal-anchors=false; hint: strategy.name='fedjets_found'"),
        ("fedjets_adam", {"clients__deal_anchors": False}, "deal-anchors=false"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_runs(name: str, changes: dict[str, Any], message: str) -> None:
    settings = small_settings(strategy__name=name, **changes)
    with pytest.raises(SettingsError, match=message):
        build_strategy(name, settings).check(settings)  # type: ignore[union-attr]


@pytest.mark.parametrize("gate", ["mlp", "random", "uniform"])
def test_whoever_embeds_samples_for_it_was_sent_the_common_expert(tmp_path: Path, gate: str) -> None:
    run = run_small(tmp_path, settings=config_of(gate__name=gate, num_server_rounds=1))
    assert json.loads((run / "summary.json").read_text())["bytes"]["by_method"]["fedjets_found"]["once"] > 0


def test_too_few_answers_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(set(range(10)), monkeypatch)
    with pytest.raises(RoundError, match="embeddings of 3 clients at least, got 2"):
        run_small(tmp_path, settings=config_of())


def test_clients_that_fail_the_census_are_no_anchors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lost = {0, 5}
    failing(lost, monkeypatch)
    found = newest_state(run_small(tmp_path, settings=config_of(clients__min_completed=0.1))).extras[ANCHORS]
    assert len(np.unique(found)) == 3
    assert not lost & set(found.tolist())
