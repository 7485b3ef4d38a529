"""Strategies that work over others."""

import re
from pathlib import Path

import numpy as np
import pytest

from fedmoe.errors import SettingsError
from fedmoe.flower.contract import Contract
from fedmoe.flower.methods import methods_of, unused_tables, works_over
from fedmoe.flower.wrapper import Wrapper
from fedmoe.recording.checkpoints import load_checkpoint
from fedmoe.settings import from_flat
from tests.small import newest_state, rounds_of, run_small, small_config

# What is unlike each other: a gate, prints before the first round, anchors found, server momentum, own parts, a pool.
OVER = ("fedjets", "fedprints", "fedjets_found", "fedjets_adam", "scaffold", "fedrep", "fedem", "ensemble")
UNCHANGED, LONGER = "tests.wrappers:Unchanged", "tests.wrappers:Longer"
OWN = ("seconds", "strategy")


def told(run: Path) -> list[dict]:
    return [{key: value for key, value in line.items() if key not in OWN} for line in rounds_of(run)]


def weights(run: Path) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in newest_state(run).to_arrays().items()}


@pytest.mark.parametrize("over", OVER)
def test_a_wrapper_that_changes_nothing_changes_no_byte_and_no_line(tmp_path: Path, over: str) -> None:
    alone = run_small(tmp_path / "alone", settings=small_config(strategy__name=over))
    wrapped = run_small(
        tmp_path / "wrapped",
        settings=small_config(strategy__name=UNCHANGED) | {"strategy.unchanged.over": over},
    )
    assert weights(wrapped) == weights(alone)
    assert told(wrapped) == told(alone)


def test_a_wrapper_changes_what_it_overrides_however_deep_it_lies(tmp_path: Path) -> None:
    longer = {"strategy.longer.over": "fedprints", "strategy.longer.epochs": 3}
    config = small_config(strategy__name=UNCHANGED) | {"strategy.unchanged.over": LONGER} | longer
    deep = run_small(tmp_path / "deep", settings=config)
    by_setting = run_small(tmp_path / "long", settings=small_config(strategy__name="fedprints", train__epochs=3))
    once = run_small(tmp_path / "once", settings=small_config(strategy__name="fedprints"))
    assert weights(deep) == weights(by_setting) != weights(once)


def test_each_one_takes_its_own_table() -> None:
    tables = {"strategy.unchanged.over": "fedprox", "strategy.fedprox.mu": 3.0, "strategy.fedprox.init": "random"}
    settings = from_flat(small_config(strategy__name=UNCHANGED) | tables)
    (method,) = methods_of(settings)
    assert isinstance(method.strategy, Wrapper)
    assert method.strategy.inner.mu == 3.0
    assert method.strategy.init == "random"
    own = {"strategy.unchanged.over": LONGER, "strategy.longer.over": "fedavg"}
    settings = from_flat(small_config(strategy__name=UNCHANGED) | own)
    assert unused_tables(settings, methods_of(settings)) == []
    assert works_over(methods_of(settings)) == ["unchanged works over longer, over fedavg"]


def test_whatever_a_strategy_may_say_is_handed_through() -> None:
    public = {name for name, value in vars(Contract).items() if callable(value) and not name.startswith("_")}
    assert public - set(vars(Wrapper)) == set()


def averages(run: Path) -> dict[str, np.ndarray]:
    arrays = load_checkpoint(max((run / "checkpoints").iterdir())).arrays
    return {n.removeprefix("average/"): a for n, a in arrays.items() if n.startswith("average/")}


def test_an_expert_that_is_replaced_is_so_in_the_average_that_is_served(tmp_path: Path) -> None:
    lives = {"warm-up": 2, "rounds": 1, "margin": 0.0, "term": 2, "trial": 2, "newcomer": "random"}
    config = small_config(strategy__name=UNCHANGED, evaluate__ema=0.9, num_server_rounds=8) | {
        "strategy.unchanged.over": LONGER,
        "strategy.longer.over": "free_agent",
        "strategy.longer.epochs": 1,
        **{f"strategy.free_agent.{name}": value for name, value in lives.items()},
    }
    deep = run_small(tmp_path / "deep", settings=config)
    alone = run_small(tmp_path / "alone", settings=config | {"strategy.name": "free_agent"})
    events = [event for line in rounds_of(alone) for event in line["life_cycle"]["events"]]
    assert any(what == "replaced" for _, what in events), events
    mine, theirs = averages(deep), averages(alone)
    assert mine.keys() == theirs.keys() != set()
    assert all(mine[name].tobytes() == theirs[name].tobytes() for name in mine)


PAIRS = {
    ("free_agent", "prefetch"): "what is sent a round ahead must be the outermost",
    ("lasso", "prefetch"): "what is sent a round ahead must be the outermost",
    ("prefetch", "free_agent"): "an expert that is replaced is not moved by training",
    ("prefetch", "fedjets_found"): "it asks something else in some rounds",
    ("prefetch", "logistic_em"): "its clients train nothing",
    ("lasso", "logistic_em"): "its clients train nothing",
    ("free_agent", "logistic_em"): "its clients train nothing",
    ("canonical", "logistic_em"): "its clients send no gate",
    ("free_agent", "advmoe"): "its experts have tensors in common",
    ("lasso", "advmoe"): "its experts have tensors in common",
}
ALONG = {"advmoe": {"experts.model": "channel_group"}}  # settings with which it has the trait


@pytest.mark.parametrize("outer", ["free_agent", "lasso"])
@pytest.mark.parametrize("model", ["cnn", "mlp"])
def test_experts_that_have_nothing_in_common_may_be_changed_one_by_one(outer: str, model: str) -> None:
    for over in ("advmoe", UNCHANGED):
        tables = {f"strategy.{outer}.over": over, "strategy.unchanged.over": "advmoe", "experts.model": model}
        settings = from_flat(small_config(strategy__name=outer) | tables)
        (method,) = methods_of(settings)
        assert isinstance(method.strategy, Wrapper)
        assert "alike" not in method.strategy.traits_with(settings)


def test_a_wrapper_has_its_own_traits_and_those_of_all_below_it() -> None:
    tables = {"strategy.unchanged.over": "free_agent", "strategy.free_agent.over": "fedjets_found"}
    settings = from_flat(small_config(strategy__name=UNCHANGED) | tables)
    (method,) = methods_of(settings)
    assert isinstance(method.strategy, Wrapper)
    assert method.strategy.traits_with(settings) == {"replaces", "varies"}


@pytest.mark.parametrize("outer", ["free_agent", "lasso"])
def test_a_run_over_attacked_experts_works(tmp_path: Path, outer: str) -> None:
    tables = {f"strategy.{outer}.over": "advmoe", "experts.model": "cnn", "experts.width": 2}
    tables |= {"strategy.free_agent.term": 1, "strategy.free_agent.warm-up": 2} if outer == "free_agent" else {}
    tables |= {"strategy.lasso.strength": 1.0} if outer == "lasso" else {}
    run = run_small(tmp_path, settings=small_config(strategy__name=outer) | tables)
    lines = rounds_of(run)
    assert len(lines) == 3
    if outer == "free_agent":
        assert any(what == "term" for line in lines for _, what in line["life_cycle"]["events"])
        assert any(line["life_cycle"]["duels"] for line in lines)
    else:
        gone = [float((vector == 0).mean()) for vector in newest_state(run).experts]
        assert max(gone) > 0.3


@pytest.mark.parametrize(("outer", "inner"), PAIRS)
def test_what_does_not_go_together_is_refused_however_deep_it_lies(outer: str, inner: str) -> None:
    for over in (inner, UNCHANGED):
        tables = {f"strategy.{outer}.over": over, "strategy.unchanged.over": inner} | ALONG.get(inner, {})
        with pytest.raises(SettingsError, match=re.escape(PAIRS[outer, inner])):
            methods_of(from_flat(small_config(strategy__name=outer) | tables))


REFUSED = {
    "itself": (
        {"strategy.unchanged.over": UNCHANGED},
        "strategy.unchanged: it must work over another strategy, got 'unchanged over unchanged'",
    ),
    "itself, by another": (
        {"strategy.unchanged.over": LONGER, "strategy.longer.over": UNCHANGED},
        "it must work over another strategy, got 'unchanged over longer over unchanged'",
    ),
    "a plain Flower strategy": (
        {"strategy.unchanged.over": "flwr.serverapp.strategy:FedAvg"},
        "it works over a strategy of experts, got over='flwr.serverapp.strategy:FedAvg', a plain Flower strategy",
    ),
    "none that there is": ({"strategy.unchanged.over": "fedjet"}, "did you mean 'fedjets'?"),
    "arguments that are refused": (
        {"strategy.unchanged.over": "fedprox", "strategy.fedprox.mu": -1.0},
        "strategy.fedprox.mu must be at least 0, got -1.0",
    ),
    "settings that are refused": (
        {
            "strategy.unchanged.over": "fedprints",
            "clients.num": 1,
            "clients.per-round": 1,
            "clients.anchors-per-round": 0,
        },
        "fedprints groups clients",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_it_cannot_work_over_is_refused(case: str) -> None:
    changes, message = REFUSED[case]
    with pytest.raises(SettingsError, match=re.escape(message)):
        methods_of(from_flat(small_config(strategy__name=UNCHANGED) | changes))
