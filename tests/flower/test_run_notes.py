"""What a run says of its own settings before it starts."""

import json
from pathlib import Path

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
