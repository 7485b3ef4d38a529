"""Runs side by side: mean and standard deviation over seeds, groups by what differs."""

import csv
import json
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from fedmoe.cli import main
from fedmoe.errors import RunFolderError
from fedmoe.recording.comparison import Row, compare_runs, compared_notes
from fedmoe.recording.comparison_figure import draw_comparison
from fedmoe.recording.comparison_table import (
    Difference,
    comparison_table,
    difference,
    reference_of,
    to_csv,
    to_markdown,
)
from fedmoe.recording.found_runs import find_runs
from fedmoe.recording.run_folder import RunFolder
from fedmoe.settings import from_flat
from tests.small import rounds_of, run_small, small_config


def finished(folder: Path, seed: int, accuracy: float, partition: str = "p", **flat: Any) -> Path:
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
            "seconds": {"total": 9.0, "round_median": 0.25, "by_method": {"fedjets": 0.25}},
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
    assert first.traffic == (6, 6)
    assert rows["FedJETs [gate.name=random]", "zero-shot"].accuracies == (0.5, 0.5)


def test_baselines_that_differ_are_all_kept_and_tagged(tmp_path: Path) -> None:
    runs = [finished(tmp_path / "a", 0, 0.8), finished(tmp_path / "b", 0, 0.7, gate__name="random")]
    methods = [(row.method, row.accuracies[0]) for row in compare_runs(runs) if row.prediction == "alone"]
    assert methods == [("Common expert [gate.name=mlp]", 0.8), ("Common expert [gate.name=random]", 0.7)]


def test_an_equal_baseline_stands_once_with_the_seeds_of_all_groups(tmp_path: Path) -> None:
    runs = [finished(tmp_path / f"a{seed}", seed, 0.8) for seed in (0, 1)]
    runs += [finished(tmp_path / f"b{seed}", seed, 0.8, gate__name="random") for seed in (1, 2)]
    alone = [row for row in compare_runs(runs) if row.prediction == "alone"]
    assert [(row.method, row.seeds, row.accuracies, len(row.measures)) for row in alone] == [
        ("Common expert", (0, 1, 2), (0.8, 0.8, 0.8), 3)
    ]
    again = compare_runs([*runs, finished(tmp_path / "c3", 3, 0.8, gate__name="uniform")])
    assert len([row for row in again if row.prediction == "alone"]) == 3
    apart = compare_runs([runs[0], runs[3]])  # no seed that both have: nothing tells that they are equal
    assert len([row for row in apart if row.prediction == "alone"]) == 2


def test_the_terminal_tells_once_what_a_methods_rows_share(tmp_path: Path) -> None:
    runs = [finished(tmp_path / f"a{seed}", seed, 0.7 + seed / 10) for seed in (0, 1, 2)]
    more = {"gate__name": "random", "train__logit-adjustment": True}
    runs += [finished(tmp_path / f"b{seed}", seed, 0.6 + seed / 9, **more) for seed in (0, 1)]
    console = Console(width=80, record=True, file=StringIO())
    console.print(comparison_table(compare_runs(runs)))
    lines = [line.rstrip() for line in console.export_text().splitlines()]
    start = lines.index("FedJETs")
    assert lines[start + 1 : start + 4] == [
        "gate.name=mlp",
        "train.logit-adjustment=False",
        "3 seeds, 6 B, 250 ms a round",
    ]
    assert [line.split() for line in lines[start + 4 : start + 6]] == [
        ["zero-shot", "80.0", "±", "10.0", "80.0", "-"],
        ["mixture", "of", "held", "experts", "80.0", "±", "10.0", "80.0", "+0.0", "[+0.0,", "+0.0]"],
    ]
    console.print(comparison_table(compare_runs(runs), "FedJETs [gate.name=random"))
    assert "over 2 seeds" in " ".join(console.export_text().split()), "the others have a third"


def test_the_terminal_shows_the_tags(tmp_path: Path) -> None:
    console = Console(width=120, record=True, file=StringIO())
    runs = [finished(tmp_path / "a", 0, 0.8), finished(tmp_path / "b", 0, 0.7, gate__name="random")]
    console.print(comparison_table(compare_runs(runs)))
    console.print(comparison_table(compare_runs(runs), against="FedJETs [gate.name=r"))
    text = console.export_text()
    assert "gate.name=random" in text
    assert "difference: to FedJETs [gate.name=random]" in " ".join(text.split())


def test_folders_stand_for_the_runs_below_files_are_passed_over_and_unfinished_runs_left_out(tmp_path: Path) -> None:
    runs = [finished(tmp_path / "sweep" / f"seed={seed}" / "run", seed, 0.5) for seed in (0, 1)]
    (tmp_path / "sweep" / "seed=0" / "log.txt").write_text("")
    assert find_runs([tmp_path / "sweep"]) == (runs, [])
    assert find_runs([*(tmp_path / "sweep" / "seed=0").iterdir(), runs[1], tmp_path]) == (runs, [])
    (runs[1] / "summary.json").unlink()
    assert find_runs([tmp_path]) == (runs[:1], runs[1:])
    with pytest.raises(RunFolderError, match="must be finished"):
        find_runs([runs[1]])
    with pytest.raises(RunFolderError, match="no such folder"):
        find_runs([runs[0], tmp_path / "none"])
    (tmp_path / "sweep" / "seed=2").mkdir()
    (tmp_path / "sweep" / "seed=2" / "run-config.toml").write_text("")
    assert set(find_runs([*(tmp_path / "sweep").iterdir()])[1]) == {tmp_path / "sweep" / "seed=2", runs[1]}
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunFolderError, match="a folder without a run in or below it"):
        find_runs([tmp_path / "empty"])


def test_the_command_tells_what_it_left_out_and_wrote_into_folders_that_it_makes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [finished(tmp_path / "sweep" / f"seed={seed}" / "run", seed, 0.5) for seed in (0, 1, 2)]
    (runs[1] / "summary.json").unlink()
    summary = json.loads((runs[2] / "summary.json").read_text())
    summary["bytes"]["by_method"]["fedjets"]["up"] = 30
    summary["seconds"]["by_method"]["fedjets"] = 0.75
    (runs[2] / "summary.json").write_text(json.dumps(summary))
    file = tmp_path / "new" / "folder" / "rows.csv"
    monkeypatch.setattr("sys.argv", ["fedmoe", "compare", str(tmp_path / "sweep"), "--csv", str(file), "--markdown"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    told = capsys.readouterr()
    assert "| 50.0 ± 0.0 | 50.0 | - | 2 | 20 B | 0.5 |" in told.out
    assert f"left out, not finished: {runs[1]}" in told.err
    lines = [line for line in csv.DictReader(StringIO(file.read_text())) if line["prediction"] == "zero-shot"]
    assert [(line["traffic_bytes"], line["round_seconds"]) for line in lines] == [("6", "0.25"), ("33", "0.75")]
    assert "std_over_clients" in lines[0]


def test_markdown_holds_mean_and_sample_standard_deviation(tmp_path: Path) -> None:
    runs = [finished(tmp_path / f"{seed}", seed, accuracy) for seed, accuracy in enumerate((0.7, 0.8, 0.9))]
    assert "| FedJETs | zero-shot | 80.0 ± 10.0 | 80.0 | - | 3 | 6 B | 0.25 |" in to_markdown(compare_runs(runs))


def test_a_run_that_two_sweeps_have_counts_once(tmp_path: Path) -> None:
    one, again, more = (finished(tmp_path / str(n), seed, 0.5) for n, seed in enumerate((0, 0, 1)))
    assert compare_runs([one, again, more]) == compare_runs([one, more])


def test_two_results_of_one_run_other_partitions_and_unfinished_runs_are_refused(tmp_path: Path) -> None:
    run = finished(tmp_path / "a", 0, 0.5)
    with pytest.raises(RunFolderError, match=r"each run must be there once, got two of seed 0 .*hint: leave one out"):
        compare_runs([run, finished(tmp_path / "other", 0, 0.6)])
    with pytest.raises(RunFolderError, match="must share a partition"):
        compare_runs([run, finished(tmp_path / "b", 0, 0.5, partition="q", gate__name="random")])
    (run / "summary.json").unlink()
    with pytest.raises(RunFolderError, match=r"has no summary\.json"):
        compare_runs([run])


def row(name: str, accuracies: dict[int, float]) -> Row:
    values = tuple(accuracies.values())
    ones, zeros = (1.0,) * len(values), (0.0,) * len(values)
    return Row(name, "the model", tuple(accuracies), values, values, ones, zeros, True)


def test_differences_are_paired_by_seed_with_students_interval() -> None:
    one, two = row("a", {0: 0.50, 1: 0.60, 2: 0.70}), row("b", {0: 0.52, 1: 0.64, 2: 0.70, 3: 0.1})
    told = difference(two, one)
    assert told is not None
    expected = stats.ttest_rel(two.accuracies[:3], one.accuracies).confidence_interval(0.95)
    assert told.mean == pytest.approx(0.02)
    assert told.pairs == 3
    assert (told.low, told.high) == pytest.approx((expected.low, expected.high))
    assert difference(row("c", {0: 0.4}), one) == Difference(pytest.approx(-0.1), None, None, 1)
    assert difference(row("c", {9: 0.4}), one) is None


def test_the_reference_is_found_by_how_its_title_begins() -> None:
    rows = [row("FedJETs", {0: 0.5}), row("FedAvg", {0: 0.4})]
    assert reference_of(rows, "") is rows[0]
    assert reference_of(rows, "fedavg, the") is rows[1]
    with pytest.raises(RunFolderError, match=r"--against.*did you mean .FedAvg.\? known: FedAvg, FedJETs"):
        reference_of(rows, "fedavgg")
    assert "| FedAvg | the model | 40.0 | 40.0 | -10.0 | 1 |" in to_markdown(rows)
    assert "| FedJETs | the model | 50.0 | 50.0 | +10.0 | 1 |" in to_markdown(rows, "FedAvg")


def test_csv_has_a_line_a_row_and_seed() -> None:
    lines = to_csv([row("a, b", {0: 0.5, 3: 0.25})]).splitlines()
    tagged = replace(row("a [k=1, m.n=x]", {0: 0.5}), settings=("k=1", "m.n=x"))
    told = list(csv.DictReader(StringIO(to_csv([tagged, row("b", {0: 0.5})]))))
    assert [(line["method"], line["k"], line["m.n"]) for line in told] == [("a", "1", "x"), ("b", "", "")]
    assert lines[0].split(",")[:4] == ["method", "prediction", "seed", "accuracy"]
    nothing = "," * lines[0].count(",")
    assert [line.rstrip(",") for line in lines[1:]] == [
        '"a, b",the model,0,0.5,0.5,1.0',
        '"a, b",the model,3,0.25,0.25,1.0',
    ]
    assert all(line.replace('"a, b"', "").count(",") == len(nothing) for line in lines[1:])


def test_csv_has_the_measures_of_each_run(tmp_path: Path) -> None:
    run = run_small(tmp_path, settings=small_config(evaluate__baselines="fedavg", evaluate__seen=2))
    summary = json.loads((run / "summary.json").read_text())
    told = list(csv.DictReader(StringIO(to_csv(compare_runs([run])))))
    by_title = {(row["method"], row["prediction"]): row for row in told}
    ours, routing = by_title["FedJETs", "zero-shot"], summary["routing"]["fedjets"]
    for name in ("specialisation", "routing_entropy", "dispatch_entropy", "routing_stability"):
        assert float(ours[name]) == routing[name]
    assert int(ours["dead_experts"]) == len(routing["dead_experts"])
    assert int(ours["untrained_experts"]) == len(routing["untrained_experts"])
    assert float(ours["std_over_clients"]) == summary["methods"]["fedjets"]["zero_shot"]["std"]
    assert float(ours["personalise_seconds"]) == summary["seconds"]["personalise"]["fedjets"] > 0
    dense, common = by_title["FedAvg", "the model"], by_title["Common expert", "alone"]
    assert dense["routing_stability"] == common["routing_stability"] == common["personalise_seconds"] == ""
    assert float(dense["personalise_seconds"]) > 0
    assert by_title["FedJETs", "zero-shot (seen clients)"]["routing_entropy"] == ""
    assert set(summary["routing"]) == {"fedjets"}


def test_runs_that_deal_data_in_other_ways_stand_side_by_side_under_their_settings(tmp_path: Path) -> None:
    runs = [
        finished(tmp_path / "a", 0, 0.5, partition="p", clients__partition="iid"),
        finished(tmp_path / "b", 0, 0.4, partition="q", clients__partition="shards"),
    ]
    titles = [row.method for row in compare_runs(runs)]
    assert "FedJETs [clients.partition=iid]" in titles
    assert "FedJETs [clients.partition=shards]" in titles


def test_the_figure_has_a_line_for_each_method_over_the_bytes_that_it_has_sent(tmp_path: Path) -> None:
    runs = [
        run_small(
            tmp_path / f"{name}{seed}", settings=small_config(seed=seed, strategy__name=name, evaluate__doubt=0.15)
        )
        for name in ("fedavg", "scaffold")
        for seed in (0, 1)
    ]
    panels = draw_comparison(runs).axes
    left, variants = panels[0], ("zero_shot", "zero_shot_em", "zero_shot_guarded")
    assert {axes.get_ylim() for axes in panels} == {left.get_ylim()}
    for axes, variant in zip(panels, variants, strict=True):
        assert len(axes.lines) == 2
        for line, pair in zip(axes.lines, (runs[:2], runs[2:]), strict=True):
            x, y = line.get_data()
            evaluated = [[one for one in rounds_of(run) if one["evaluate"]] for run in pair]
            means = [[one["evaluate"]["methods"][variant]["mean"] for one in lines] for lines in evaluated]
            np.testing.assert_allclose(y, 100 * np.mean(means, axis=0))
            total = np.mean([sum(r["bytes"]["down"] + r["bytes"]["up"] for r in rounds_of(run)) for run in pair])
            assert x[-1] == pytest.approx(total / 1e6), "megabytes, for nobody sends a gigabyte"
    assert left.lines[1].get_xdata()[-1] == pytest.approx(2 * left.lines[0].get_xdata()[-1]), "SCAFFOLD sends twice"


def test_a_run_may_lack_a_baseline_that_another_one_has(tmp_path: Path) -> None:
    runs = [finished(tmp_path / str(seed), seed, 0.5) for seed in (0, 1)]
    for seed, run in enumerate(runs):
        summary = json.loads((run / "summary.json").read_text())
        if seed:
            summary["methods"]["fedavg"] = {"zero_shot": summary["methods"]["common expert"]["plain"]}
        summary["seconds"]["by_method"]["fedjets"] = seed
        (run / "summary.json").write_text(json.dumps(summary))
    for paths in (runs, runs[::-1]):
        rows = {(row.method, row.prediction): row.seeds for row in compare_runs(paths)}
        assert rows["FedAvg", "the model"] == (1,)
        assert rows["FedJETs", "zero-shot"] == (0, 1)


def test_an_equal_baseline_stands_there_once_however_long_it_took(tmp_path: Path) -> None:
    runs = [finished(tmp_path / "a", 0, 0.5), finished(tmp_path / "b", 0, 0.5, gate__name="random")]
    for number, run in enumerate(runs):
        summary = json.loads((run / "summary.json").read_text())
        summary["seconds"]["by_method"]["common expert"] = 1.0 + number
        (run / "summary.json").write_text(json.dumps(summary))
    assert [row.method for row in compare_runs(runs)].count("Common expert") == 1


def of_tables(run: Path, tables: dict[str, list[str]], **methods: float) -> Path:
    """Returns the run with what its methods work over, and with their accuracies, the main one first."""
    summary = json.loads((run / "summary.json").read_text())
    told = {name: {"zero_shot": {"mean": mean, "worst_decile": mean}} for name, mean in methods.items()}
    summary |= {"strategy": next(iter(methods)), "tables": tables, "methods": told}
    (run / "summary.json").write_text(json.dumps(summary))
    return run


def test_an_argument_of_a_strategy_tells_its_own_rows_apart_alone(tmp_path: Path) -> None:
    tables = {"mine": ["mine"], "lasso": ["lasso", "mine"], "fedprox": ["fedprox"]}
    runs = [
        of_tables(
            finished(tmp_path / f"{seed}-{rate}", seed, 0.5, strategy__mine__rate=rate),
            tables,
            mine=rate,
            lasso=rate,
            fedprox=0.5,
        )
        for seed, rate in [(0, 0.1), (1, 0.1), (1, 0.2), (2, 0.2)]
    ]
    alone = of_tables(finished(tmp_path / "alone", 3, 0.5, strategy__name="fedprox"), {"fedprox": []}, fedprox=0.4)
    found = {row.method: row.seeds for row in compare_runs([*runs, alone])}
    assert found == {
        "Mine [strategy.mine.rate=0.1]": (0, 1),
        "L1 penalty [strategy.mine.rate=0.1]": (0, 1),
        "FedProx": (0, 1, 2, 3),
        "Mine [strategy.mine.rate=0.2]": (1, 2),
        "L1 penalty [strategy.mine.rate=0.2]": (1, 2),
    }


def test_an_argument_that_all_runs_of_its_strategy_have_alike_tells_nothing_apart(tmp_path: Path) -> None:
    mine = of_tables(finished(tmp_path / "a", 0, 0.5, strategy__mine__rate=0.1), {"mine": ["mine"]}, mine=0.1)
    other = of_tables(finished(tmp_path / "b", 0, 0.5, strategy__name="fedprox"), {"fedprox": []}, fedprox=0.3)
    assert [row.method for row in compare_runs([mine, other])] == ["Mine", "FedProx"]


def test_rows_that_nothing_tells_apart_but_their_figures_keep_all_settings_or_are_refused(tmp_path: Path) -> None:
    tables = {"mine": ["mine"], "fedprox": ["fedprox"]}
    runs = [
        of_tables(finished(tmp_path / f"{rate}", 0, 0.5, strategy__mine__rate=rate), tables, mine=0.5, fedprox=rate)
        for rate in (0.1, 0.2)
    ]
    assert [row.method for row in compare_runs(runs) if row.method.startswith("FedProx")] == [
        "FedProx [strategy.mine.rate=0.1]",
        "FedProx [strategy.mine.rate=0.2]",
    ]
    own = of_tables(finished(tmp_path / "own", 0, 0.5, strategy__name="fedprox"), {"fedprox": []}, fedprox=0.3)
    assert {row.method for row in compare_runs([runs[0], own])} >= {"FedProx [strategy.name=fedprox]"}


def test_of_two_runs_of_a_seed_the_one_with_more_baselines_counts(tmp_path: Path) -> None:
    more = of_tables(finished(tmp_path / "a", 0, 0.5), {}, fedjets=0.5, fedavg=0.4)
    fewer = of_tables(finished(tmp_path / "b", 0, 0.5), {}, fedjets=0.5)
    for runs in ([more, fewer], [fewer, more]):
        assert [row.method for row in compare_runs(runs)] == ["FedJETs", "FedAvg"]
    other = of_tables(finished(tmp_path / "c", 0, 0.5), {}, fedjets=0.3)
    with pytest.raises(RunFolderError, match="differ in accuracy"):
        compare_runs([more, other])


def test_notes_of_runs_are_told_once_and_starts_that_differ_first(tmp_path: Path) -> None:
    runs = [finished(tmp_path / str(seed), seed, 0.5) for seed in (0, 1)]
    for number, run in enumerate(runs):
        summary = json.loads((run / "summary.json").read_text())
        summary |= {"starts": {"fedjets": "random"}, "notes": ["both", "one"][: 2 - number]}
        (run / "summary.json").write_text(json.dumps(summary))
    assert compared_notes(runs) == ["both", "one (in 1 of 2 runs)"]
    apart = "experts start apart: FedJETs from random weights; FedAvg from the common expert"
    summary |= {"starts": {"fedjets": "random", "fedavg": "common"}, "notes": [apart, "both"]}
    (runs[1] / "summary.json").write_text(json.dumps(summary))
    assert compared_notes(runs) == [apart, "both", "one (in 1 of 2 runs)"]


def test_lines_of_the_figure_that_lie_on_each_other_are_all_seen(tmp_path: Path) -> None:
    runs = [
        run_small(tmp_path / name, settings=small_config(strategy__name=name, gate__name=gate))
        for name, gate in (("fedavg", "mlp"), ("scaffold", "mlp"))
    ]
    twin = run_small(tmp_path / "twin", settings=small_config(strategy__name="fedavg", gate__name="random"))
    (axes, *_) = draw_comparison([*runs, twin]).axes
    widths = {line.get_label(): line.get_linewidth() for line in axes.lines}
    one, other, last = widths.values()
    assert one > other == last, widths
    assert len(widths) == 3


def test_a_strategys_name_is_told_once_unless_two_have_the_same(tmp_path: Path) -> None:
    def renamed(folder: Path, strategy: str, title: str) -> Path:
        run = finished(folder, 0, 0.5 + len(strategy) / 100, strategy__name=strategy)
        text = (run / "summary.json").read_text()
        (run / "summary.json").write_text(text.replace("fedjets", title))
        return run

    runs = [renamed(tmp_path / "a", "fedavg", "fedavg"), renamed(tmp_path / "b", "fedprox", "fedprox")]
    assert {row.method for row in compare_runs(runs)} >= {"FedAvg", "FedProx"}
    runs = [renamed(tmp_path / "c", "a:Mine", "mine"), renamed(tmp_path / "d", "other:Mine", "mine")]
    assert {row.method for row in compare_runs(runs)} >= {
        "Mine [strategy.name=a:Mine]",
        "Mine [strategy.name=other:Mine]",
    }
