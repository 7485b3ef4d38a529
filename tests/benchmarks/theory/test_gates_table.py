"""The table of all gates: each one is in it, on the page too, and a run of it measures what it says."""

import re
from math import log
from pathlib import Path

import pytest

from benchmarks.theory.gates import EXPERIMENT, ROWS, settings_of
from fedmoe.moe.construction import gate_class
from fedmoe.references import known_names

PAGE = Path(__file__).parents[3] / "docs/systems/gates.md"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDMOE_HOME", str(tmp_path / "home"))


def test_every_gate_that_trains_or_needs_no_training_is_a_row():
    gates = {row for row in ROWS if " + " not in row}
    left_out = {name for name in known_names("fedmoe.moe.gates") if name not in gates}
    assert "discriminant" in left_out
    assert all(gate_class(name).set_by_strategy for name in left_out)
    assert all(settings_of(row, 0)["gate.name"] == row.split(" + ")[0] for row in ROWS)


def test_the_catalogue_tells_of_gates_and_balance_losses_that_there_are():
    named = re.findall(r"^\| `(\w+)` \|", PAGE.read_text().split("## Measured")[0], re.M)
    assert len(named) == len(set(named)) > 20
    assert set(named) <= {*known_names("fedmoe.moe.gates"), "importance", "load", "switch"}


@pytest.mark.parametrize("row", ["expert_choice", "mlp + switch"])
def test_a_run_of_two_rounds_is_measured(row):
    figures = EXPERIMENT.measure(row, 1, True)
    assert set(EXPERIMENT.columns) <= set(figures)
    assert figures["common"] > 50, "the common expert has learnt the digits"
    assert figures["mixture"] > 15, "better than by lot"
    assert 0 < figures["dispatch_entropy"] <= log(5 - figures["dead"]) + 1e-6, "as many as are alive share the load"
    assert figures["active"] == pytest.approx(1 if row == "expert_choice" else 3, abs=0.1)
    assert (figures["by_common"] > 0) == (row == "expert_choice")
    assert EXPERIMENT.measure(row, 1, True) == figures
