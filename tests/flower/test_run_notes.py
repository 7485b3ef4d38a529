"""What a run says of its own settings before it starts."""

import json
from pathlib import Path
from typing import Any

from tests.small import run_small, small_config


def notes_of(folder: Path, **settings: object) -> list[str]:
    run = run_small(folder, settings=small_config(**settings))
    notes: list[str] = json.loads((run / "summary.json").read_text())["notes"]
    return [note for note in notes if "evaluate.ema" in note]


def test_an_average_that_is_mostly_the_first_rounds_model_is_told(tmp_path: Path) -> None:
    (note,) = notes_of(tmp_path / "a", evaluate__ema=0.9, num_server_rounds=3)
    assert "after 3 rounds the average that is tested is still 81% the model of the first round" in note
    assert notes_of(tmp_path / "b", evaluate__ema=0.1, num_server_rounds=3) == []
    assert notes_of(tmp_path / "c", evaluate__ema=0.0, num_server_rounds=1) == []


def test_a_run_tells_where_its_methods_start_and_what_they_work_over(tmp_path: Path) -> None:
    def summary_of(**settings: object) -> dict[str, Any]:
        run = run_small(tmp_path / str(len(settings)), settings=small_config(**settings))
        told: dict[str, Any] = json.loads((run / "summary.json").read_text())
        return told

    told = summary_of(evaluate__baselines="fedavg,lasso", strategy__lasso__over="fedprints")
    assert told["tables"] == {"fedjets": ["fedjets"], "fedavg": ["fedavg"], "lasso": ["lasso", "fedprints"]}
    assert told["starts"] == {"fedjets": "random", "fedavg": "common", "lasso": "common"}
    note = "experts start apart: FedJETs from random weights; FedAvg, L1 penalty from the common expert"
    assert note in told["notes"]
    alike = summary_of(evaluate__baselines="fedavg,lasso", strategy__lasso__over="fedprints", experts__init="common")
    assert set(alike["starts"].values()) == {"common"}
    assert not [note for note in alike["notes"] if "start apart" in note]
