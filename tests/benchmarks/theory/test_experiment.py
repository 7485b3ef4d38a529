"""The frame of the theory's experiments: every row and seed measured once, table, CSV and picture written."""

import csv
from pathlib import Path

import pytest

from benchmarks.theory.experiment import Experiment, Figures, Results, main


def measure(row: str, seed: int, small: bool) -> Figures:
    value = 10.0 * seed + (row == "two") + (100 if small else 0)
    return {"value": value, "hidden": 1 / 3} if row == "one" else {"value": value, "other": 7.0}


def draw(results: Results, figure) -> None:  # type: ignore[no-untyped-def]
    figure.subplots().plot([run["value"] for runs in results.values() for run in runs])


EXPERIMENT = Experiment(
    name="fake",
    title="Fake",
    rows=("one", "two"),
    measure=measure,
    draw=draw,
    columns={"value": "Value", "other": "Other"},
    digits={"value": 1},
)


def test_all_is_measured_and_told(tmp_path: Path) -> None:
    results = main(EXPERIMENT, ["--output", str(tmp_path / "new"), "--seeds", "1..3"])
    assert [run["value"] for run in results["two"]] == [11.0, 21.0, 31.0]
    table = (tmp_path / "new" / "fake.md").read_text().splitlines()
    assert table == [
        "| Fake | Value | Other |",
        "|---|--:|--:|",
        "| one | 20.0 ± 10.0 | - |",
        "| two | 21.0 ± 10.0 | 7.00 ± 0.00 |",
    ]
    with (tmp_path / "new" / "fake.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 2 * 3 * 2
    assert {"row": "one", "seed": "2", "figure": "hidden", "value": repr(1 / 3)} in lines
    assert (tmp_path / "new" / "fake.png").stat().st_size > 1000


def test_small_and_one_seed(tmp_path: Path) -> None:
    results = main(EXPERIMENT, ["--output", str(tmp_path), "--seeds", "2", "--small"])
    assert [[run["value"] for run in runs] for runs in results.values()] == [[120.0], [121.0]]


@pytest.mark.parametrize("seeds", ["2..1", "x"])
def test_seeds_that_are_none_are_refused(seeds: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        main(EXPERIMENT, ["--output", str(tmp_path), "--seeds", seeds])
