"""Runs side by side: mean and standard deviation over seeds, groups by what differs."""

from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from fedmoe.errors import RunFolderError
from fedmoe.recording.comparison import compare_runs, comparison_table, to_markdown
from fedmoe.recording.run_folder import RunFolder
from fedmoe.settings import from_flat


def finished(folder: Path, seed: int, accuracy: float, partition: str = "p", **flat: str) -> Path:
    folder.mkdir(parents=True)
    run = RunFolder(folder)
    run.write_settings(from_flat({"seed": seed} | {name.replace("__", "."): value for name, value in flat.items()}))
    figures = {"mean": accuracy, "std": 0.0, "worst_decile": accuracy}
    run.write_summary(
        {
            "strategy": "fedjets",
            "seed": seed,
            "partition": {"hash": f"{partition}{seed}"},
            "methods": {"fedjets": {"zero_shot": figures, "mixture": figures}, "common expert": {"plain": figures}},
            "bytes": {"by_method": {"fedjets": {"once": 1, "down": 2, "up": 3}}},
        }
    )
    return folder


def test_seeds_are_put_together_and_other_settings_kept_apart(tmp_path: Path) -> None:
    learned = [finished(tmp_path / f"l{seed}", seed, 0.8 + seed / 10) for seed in (1, 0)]
    by_lot = [finished(tmp_path / f"r{seed}", seed, 0.5, gate__name="random") for seed in (0, 1)]
    rows = {(row.method, row.prediction): row for row in compare_runs([*learned, *by_lot])}
    first = rows["FedJETs [gate.name=mlp]", "zero-shot"]
    assert first.seeds == (0, 1)
    assert first.accuracies == (0.8, 0.9)
    assert first.traffic == 6
    assert rows["FedJETs [gate.name=random]", "zero-shot"].accuracies == (0.5, 0.5)


def test_baselines_that_differ_are_all_kept_and_tagged(tmp_path: Path) -> None:
    runs = [finished(tmp_path / "a", 0, 0.8), finished(tmp_path / "b", 0, 0.7, gate__name="random")]
    methods = [(row.method, row.accuracies[0]) for row in compare_runs(runs) if row.prediction == "alone"]
    assert methods == [("Common expert", 0.8), ("Common expert [gate.name=random]", 0.7)]


def test_the_terminal_shows_the_tags(tmp_path: Path) -> None:
    console = Console(width=120, record=True, file=StringIO())
    runs = [finished(tmp_path / "a", 0, 0.8), finished(tmp_path / "b", 0, 0.7, gate__name="random")]
    console.print(comparison_table(compare_runs(runs)))
    assert "[gate.name=random]" in console.export_text()


def test_markdown_holds_mean_and_sample_standard_deviation(tmp_path: Path) -> None:
    runs = [finished(tmp_path / f"{seed}", seed, accuracy) for seed, accuracy in enumerate((0.7, 0.8, 0.9))]
    assert "| FedJETs | zero-shot | 80.0 ± 10.0 | 3 | 6 B |" in to_markdown(compare_runs(runs))


def test_the_same_run_twice_other_partitions_and_unfinished_runs_are_refused(tmp_path: Path) -> None:
    run = finished(tmp_path / "a", 0, 0.5)
    with pytest.raises(RunFolderError, match="each run must be there once"):
        compare_runs([run, run])
    with pytest.raises(RunFolderError, match="must share a partition"):
        compare_runs([run, finished(tmp_path / "b", 0, 0.5, partition="q", gate__name="random")])
    (run / "summary.json").unlink()
    with pytest.raises(RunFolderError, match=r"has no summary\.json"):
        compare_runs([run])
