"""`--run-config` several times: each adds to what the others have set."""

from pathlib import Path

import pytest

from fedmoe.errors import SettingsError
from fedmoe.flower.local_run import given_keys, read_config

QUICKSTART = Path(__file__).parents[2] / "simulations" / "quickstart"


def test_overrides_of_one_table_add_up_and_the_last_one_wins() -> None:
    lines = ["evaluate.every=3 seed=1", "evaluate.baselines=''", "seed=2"]
    _, flat = read_config(QUICKSTART, lines)
    assert (flat["evaluate.every"], flat["evaluate.baselines"], flat["seed"]) == (3, "", 2)
    assert given_keys(lines) == {"evaluate.every", "evaluate.baselines", "seed"}


def test_a_file_among_others_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"a TOML file must stand alone"):
        read_config(QUICKSTART, ["seed=1", "some.toml"])
