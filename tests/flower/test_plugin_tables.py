"""Tables of plug-ins' arguments, and strategies' names of parts: what does not fit is refused before anything runs."""

import re

import pytest

from fedmoe.errors import SettingsError
from fedmoe.flower.methods import methods_of
from fedmoe.flower.plugin_check import check_plugins
from fedmoe.settings import from_flat
from tests.small import small_config

REFUSED = {
    "a table of no gate": ({"gate.gumbl.samples": 3}, "unknown settings table 'gate.gumbl'; did you mean 'gumbel'?"),
    "a table of no backbone": (
        {"experts.low_rnk.rank": 3},
        "unknown settings table 'experts.low_rnk'; did you mean 'low_rank'?",
    ),
    "a misspelt argument": (
        {"gate.name": "gumbel", "gate.gumbel.sample": 3},
        "gate.gumbel has no argument 'sample'; did you mean 'samples'?",
    ),
    "an argument of a gate without any": ({"gate.mlp.width": 3}, "gate.mlp has no argument 'width'; it has none"),
    "an argument of another type": (
        {"gate.name": "gumbel", "gate.gumbel.samples": 1.5},
        "gate.gumbel.samples must be of type int, got 1.5 (float)",
    ),
    "an argument out of range": (
        {"gate.name": "top_k", "gate.top_k.k": 0},
        "gate.top_k.k must be at least 1, got 0",
    ),
    "an argument of a backbone of another type": (
        {"experts.model": "low_rank", "experts.low_rank.rank": "four"},
        "experts.low_rank.rank must be of type int, got 'four' (str)",
    ),
}
STRATEGIES = {
    "a balance that takes no weight": (
        {"strategy.fedjets.balance": "prox"},
        "strategy.fedjets.balance must name an objective that takes a weight, got 'prox'",
    ),
    "no such balance": ({"strategy.fedjets.balance": "swich"}, "unknown objective 'swich'; did you mean 'switch'?"),
    "parts of one's own that there are not": (
        {"strategy.name": "fedavg_own", "experts.model": "mlp"},
        "strategy.fedavg_own.own must fit the name of a tensor of experts.model='mlp', got '*.range'; hint: ",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_plug_in_says_what_it_takes(case: str) -> None:
    changes, message = REFUSED[case]
    with pytest.raises(SettingsError, match=re.escape(message)):
        check_plugins(from_flat(small_config() | changes))


@pytest.mark.parametrize("case", STRATEGIES)
def test_a_strategy_says_what_it_takes(case: str) -> None:
    changes, message = STRATEGIES[case]
    with pytest.raises(SettingsError, match=re.escape(message)):
        methods_of(from_flat(small_config() | changes))


def test_tables_of_other_plug_ins_are_left_alone() -> None:
    check_plugins(from_flat(small_config() | {"gate.gumbel.samples": 3, "experts.low_rank.rank": 2}))
    methods_of(from_flat(small_config() | {"strategy.name": "fedavg_own", "experts.model": "expanded"}))
