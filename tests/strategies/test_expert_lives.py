"""The life cycle of experts in small runs: it changes nothing until something happens, and then what it should."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch

from fedmoe.federation.life_cycle import lives_from
from fedmoe.flower.local_grid import LocalGrid
from fedmoe.flower.newborn import newborn_expert
from fedmoe.flower.preparation import prepare_run
from fedmoe.recording.checkpoints import load_checkpoint
from fedmoe.settings import from_flat
from strategies.free_agent import LIVES, shadow
from tests.small import BackwardsGrid, newest_bytes, newest_state, rounds_of, run_small, small_config
from tests.training.test_stand_ins import BYTES

TERM = {"term": 2, "trial": 3, "rounds": 2}
"""After two rounds every expert has to stand up to a candidate: so that something happens in a short run."""
WIN = {**TERM, "margin": 0.0, "rounds": 1, "newcomer": "random"}
OVER = ("fedjets", "fedprints", "fedem", "scaffold")


def config_of(over: str, arguments: Mapping[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    own = {f"strategy.free_agent.{name}": value for name, value in {"over": over, **(arguments or {})}.items()}
    return small_config(strategy__name="free_agent", **{"num_server_rounds": 6, **changes}) | own


def experts_of(run: Path) -> list[bytes]:
    return [expert.tobytes() for expert in newest_state(run).experts]


@pytest.mark.parametrize("over", OVER)
def test_as_long_as_nothing_happens_it_is_the_strategy_alone_to_the_byte(tmp_path: Path, over: str) -> None:
    plain = run_small(tmp_path, settings=small_config(strategy__name=over, num_server_rounds=6))
    run = run_small(tmp_path / "own", settings=config_of(over), home=tmp_path / "home")
    assert experts_of(run) == experts_of(plain)
    copies = 0
    for mine, theirs in zip(rounds_of(run), rounds_of(plain), strict=True):
        told = mine.pop("life_cycle")
        assert told["events"] == []
        assert [r is None for r in told["reward"]] == [a is None for a in told["accuracy"]]
        copies = sum(len(held) for held in mine["assignment"].values())
        assert mine.pop("bytes")["up"] == theirs.pop("bytes")["up"] + 12 * copies, "what is reported costs 12 bytes"
        assert {**mine, "strategy": over} == theirs
    assert copies
    extras = newest_state(run).extras
    assert not any(name.startswith(("shadow/", "free/")) for name in extras)
    assert len(lives_from(extras[LIVES])) == len(newest_state(run).experts)


@pytest.mark.parametrize("over", ["scaffold", "fedrep", "self_tuning"])
def test_what_clients_keep_and_tell_beside_is_the_incumbents_business(tmp_path: Path, over: str) -> None:
    backbone = {"experts.model": "best_response"} if over == "self_tuning" else {}
    plain = run_small(tmp_path, settings=small_config(strategy__name=over, num_server_rounds=6) | backbone)
    config = config_of(over, {**TERM, "margin": 1.0, "trial": 9}) | backbone
    run = run_small(tmp_path / "own", settings=config, home=tmp_path / "home")
    assert any(line["life_cycle"]["duels"] for line in rounds_of(run)), "no candidate was trained"
    mine, theirs = newest_state(run).to_arrays(), newest_state(plain).to_arrays()
    assert all(mine[name].tobytes() == theirs[name].tobytes() for name in theirs)


@pytest.mark.parametrize("over", ["fedjets", "fedprints"])
def test_a_candidate_is_trained_in_the_shadow_and_touches_nothing(tmp_path: Path, over: str) -> None:
    plain = run_small(tmp_path, settings=small_config(strategy__name=over, num_server_rounds=4))
    run = run_small(
        tmp_path / "own",
        settings=config_of(over, {**TERM, "margin": 1.0}, num_server_rounds=4),
        home=tmp_path / "home",
    )
    state, lines = newest_state(run), rounds_of(run)
    assert experts_of(run) == experts_of(plain)
    for mine, theirs in zip(lines, rounds_of(plain), strict=True):
        assert mine["evaluate"] == theirs["evaluate"], "nobody is answered by a candidate"
        assert mine["load"] == theirs["load"]
    assert lines[1]["life_cycle"]["events"] == [[i, "term"] for i in range(3)]
    assert lines[2]["life_cycle"]["probation"] == [0, 1, 2]
    duels = [line["life_cycle"]["duels"] for line in lines]
    assert duels[:2] == [{}, {}]
    assert duels[2]
    for samples, incumbent, candidate in (counts for told in duels for counts in told.values()):
        assert 0 <= incumbent <= samples >= candidate >= 0
    held = {i for line in lines[2:] for own in line["assignment"].values() for i in own}
    start = prepared(config_of(over), tmp_path)
    for i in range(3):
        vector = state.extras[shadow(i)]
        first = newborn_expert(start, "head", state.experts[i])
        assert vector.shape == state.experts[i].shape
        assert np.isfinite(vector).all()
        assert not np.array_equal(vector, first) or i not in held
    size = BYTES * state.experts[0].size
    for mine, theirs in zip(lines[2:], rounds_of(plain)[2:], strict=True):
        copies = sum(len(own) for own in mine["assignment"].values())
        assert mine["bytes"]["down"] - theirs["bytes"]["down"] == copies * size
        assert mine["bytes"]["up"] - theirs["bytes"]["up"] == copies * (size + 24)


def prepared(config: dict[str, Any], tmp_path: Path) -> Any:
    with mock.patch.dict(os.environ, {"FEDMOE_HOME": str(tmp_path / "home")}):
        return prepare_run(from_flat(config), torch.device("cpu"), lambda _: None)


@pytest.mark.parametrize("seed", [1, 2])
def test_a_candidate_that_wins_takes_the_place_and_the_incumbent_is_a_free_agent(tmp_path: Path, seed: int) -> None:
    config = config_of("fedprints", WIN, evaluate__ema=0.5, checkpoint_every=1, seed=seed)
    for rounds in range(2, 7):
        run = run_small(
            tmp_path / str(rounds), settings={**config, "num-server-rounds": rounds}, home=tmp_path / "home"
        )
        line, state = rounds_of(run)[-1], newest_state(run)
        replaced = [i for i, what in line["life_cycle"]["events"] if what == "replaced"]
        if replaced:
            for place, i in enumerate(reversed(replaced)):
                assert np.array_equal(state.extras[f"free/{place:03d}"], merged(run, i, seed))
                assert shadow(i) not in state.extras
                assert lives_from(state.extras[LIVES])[i].born == rounds
                average = averages(run)[f"average/expert/{i}"]
                assert np.array_equal(average, state.experts[i]), "an average of two experts would be neither"
            return
    pytest.fail("no candidate has won")


def averages(run: Path) -> dict[str, np.ndarray]:
    return load_checkpoint(max((run / "checkpoints").iterdir())).arrays


def merged(run: Path, expert_id: int, seed: int) -> np.ndarray:
    """Returns the incumbent as the round merged it: by the same round of the strategy without a life cycle."""
    lines = rounds_of(run)
    own = run.parents[2] / "plain"
    plain = run_small(
        own,
        settings=small_config(strategy__name="fedprints", num_server_rounds=len(lines), evaluate__ema=0.5, seed=seed),
        home=run.parents[2] / "home",
    )
    vector: np.ndarray = newest_state(plain).experts[expert_id]
    return vector


@pytest.mark.parametrize(("nodes", "grid", "workers"), [(1, LocalGrid, 1), (4, BackwardsGrid, 1), (2, LocalGrid, 2)])
def test_nodes_and_workers_change_no_byte(tmp_path: Path, nodes: int, grid: type[LocalGrid], workers: int) -> None:
    one = run_small(tmp_path / "one", settings=config_of("fedjets", WIN))
    other = run_small(
        tmp_path / "other",
        nodes=nodes,
        grid=grid,
        settings=config_of("fedjets", WIN, train__workers=workers),
        home=tmp_path / "one" / "home",
    )
    assert newest_bytes(one) == newest_bytes(other)
    assert [line["life_cycle"] for line in rounds_of(one)] == [line["life_cycle"] for line in rounds_of(other)]
    assert any(what == "replaced" for line in rounds_of(one) for _, what in line["life_cycle"]["events"])


def test_a_resumed_run_goes_on_with_candidates_and_free_agents(tmp_path: Path) -> None:
    whole = run_small(tmp_path / "whole", settings=config_of("fedjets", WIN))
    cut_off = tmp_path / "cut off"
    shutil.copytree(whole, cut_off)
    (cut_off / "checkpoints" / "round-000006.safetensors").unlink()
    config = config_of("fedjets", WIN) | {"resume": str(cut_off)}
    run = run_small(tmp_path, settings=config, home=tmp_path / "whole" / "home")
    assert newest_bytes(run) == newest_bytes(whole)
    assert rounds_of(run) == rounds_of(whole)


@pytest.mark.parametrize("start", ["head", "random", "common"])
def test_a_newborn_starts_as_it_is_told(tmp_path: Path, start: str) -> None:
    preparation = prepared(config_of("fedjets"), tmp_path)
    incumbent = np.random.default_rng(0).standard_normal(preparation.initial_state(1, False, "").experts[0].size)
    vector = newborn_expert(preparation, start, incumbent.astype(np.float32))
    random = preparation.initial_state(1, False, "random").experts[0]
    head = 6 * 5 + 6  # of the smallest perceptron: five units, six classes
    if start == "head":
        assert np.array_equal(vector[:-head], incumbent.astype(np.float32)[:-head])
        assert np.array_equal(vector[-head:], random[-head:])
    else:
        assert np.array_equal(vector, preparation.initial_state(1, False, start).experts[0])
