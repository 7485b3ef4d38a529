"""A grid from a line of text."""

import tomllib

import pytest

from fedmoe.errors import SettingsError
from fedmoe.sweep.grid import Point, points_of, to_toml


def settings(*lines: str) -> list[dict]:
    return [dict(point.settings) for point in points_of(lines)]


def test_every_combination_is_there_once_in_order() -> None:
    assert settings("gate.name=mlp,random seed=0..2") == [
        {"gate.name": gate, "seed": seed} for gate in ("mlp", "random") for seed in (0, 1, 2)
    ]
    assert settings("seed=3", "train.learning-rate=0.1,1e-3") == [
        {"seed": 3, "train.learning-rate": 0.1},
        {"seed": 3, "train.learning-rate": 0.001},
    ]
    assert settings() == [{}]


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("a=true,false", [True, False]),
        ("a=1,2.5,x", [1, 2.5, "x"]),
        ("a='1',\"b c\"", ["1", "b c"]),
        ("a='fedavg,fedprox',''", ["fedavg,fedprox", ""]),
        ("a=-1..1", [-1, 0, 1]),
        ("a=4..4", [4]),
        ("a=my_file.py:Class,/x/y.py:Z", ["my_file.py:Class", "/x/y.py:Z"]),
        ("a=2026-01-01", ["2026-01-01"]),
    ],
)
def test_values_are_read_as_toml_where_they_can_be(text: str, values: list) -> None:
    got = [own["a"] for own in settings(text)]
    assert got == values
    assert [type(value) for value in got] == [type(value) for value in values]


@pytest.mark.parametrize("text", ["seed", "seed=0..2 gate.name", "=1", "seed=0 seed=1", "seed=1,1", "a='x", "a=2..1"])
def test_what_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match=r"--over|sweep"):
        points_of([text])


def test_names_are_those_of_folders_and_tell_the_settings() -> None:
    assert Point((("strategy.name", "/x/y.py:Z"), ("seed", 0))).name == "strategy.name=-x-y.py-Z,seed=0"
    assert Point(()).name == "default"


def test_settings_go_through_toml_unchanged() -> None:
    table = {"seed": 3, "train.learning-rate": 1e-8, "deterministic": True, "data.root": '/a "b"/c', "x.y": ""}
    read = tomllib.loads(to_toml(table))
    assert read == {
        "seed": 3,
        "train": {"learning-rate": 1e-8},
        "deterministic": True,
        "data": {"root": '/a "b"/c'},
        "x": {"y": ""},
    }
