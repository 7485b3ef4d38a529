"""The map of regimes: equal bytes by construction, the best rival under its best prediction, and one toy map."""

import csv
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import groups
from benchmarks.regime_cells import Cell, read_csv, write_csv
from benchmarks.regime_grid import METHODS, REGIMES, TRANSFERS, Value, parts_of
from benchmarks.regime_rows import summary_rows
from benchmarks.regime_table import markdown
from benchmarks.regimes import guests_of, known_of, main, map_of, runs_of
from fedmoe.errors import DataError, SettingsError
from fedmoe.federation.sampling import matched_count
from fedmoe.recording.interval import interval
from fedmoe.recording.run_folder import RunFolder
from fedmoe.settings import from_flat


@pytest.mark.parametrize("name", REGIMES)
def test_every_method_is_there_once_and_moves_as_many_experts_a_round(name: str, tmp_path: Path) -> None:
    regime = REGIMES[name]
    parts = parts_of(regime, 3, "fashion", "cifar")
    methods = [method for part in parts for method in part.methods.values()]
    assert sorted(methods) == sorted([*(set(METHODS) - {"common"}), "fedjets", "fedjets-la"])
    starts = {(part.methods.get("fedjets"), part.settings.get("experts.init", "random")) for part in parts}
    assert {(method, start) for method in ("fedjets", "fedjets-la") for start in ("random", "common")} <= starts
    for part, place in runs_of([(name, 3)], tmp_path, ("", ""), (), 1)[name, 3]:
        settings = from_flat(dict(place.config))
        clients, experts = settings.clients, settings.experts
        routed = clients.anchors_per_round + (clients.per_round - clients.anchors_per_round) * experts.top_k
        assert ({"fedjets"} & set(part.methods)) == set() or routed == TRANSFERS
        assert part.methods.keys() <= {"fedjets"} or clients.per_round == TRANSFERS
        assert settings.train.logit_adjustment == ("fedjets" not in part.methods.values())
        assert experts.num == clients.anchors_per_round == (regime.groups if regime.groups > 1 else 5)


SENT = {"common": 0.0, "fedavg": 10.0, "fedjets": 25.0, "fedjets-la": 25.0, "fedprints": 11.0}


def cell(method: str, prediction: str, accuracy: float, seed: int = 0, regime: str = "iid", groups: int = 0) -> Cell:
    return Cell(regime, seed, method, prediction, accuracy, SENT[method] + 3 * seed, groups)


def test_a_rival_counts_with_its_best_prediction_and_the_lead_is_paired_by_seed() -> None:
    cells = []
    for seed, ours in enumerate((0.9, 0.8, 0.7)):
        cells += [
            cell("common", "em", 0.5, seed),
            cell("fedavg", "zero_shot_em", 0.6, seed),
            cell("fedjets", "zero_shot from random", 0.1, seed),
            cell("fedjets", "mixture_em from common", ours - 0.05 * seed, seed),
            cell("fedjets-la", "zero_shot from random", 0.2, seed),
            cell("fedprints", "zero_shot_em", 0.99, seed, groups=1 + seed),
            cell("fedprints", "zero_shot_guarded", ours, seed, groups=1 + seed),
        ]
    (row,) = summary_rows(cells)
    assert row.rival == "fedjets"
    np.testing.assert_allclose(row.lead, [0.0, 0.05, 0.1], atol=1e-12)
    assert interval(row.lead) == pytest.approx(4.302653 * 0.05 / np.sqrt(3), rel=1e-5)
    assert "| 72.5 " not in markdown(cells)
    assert "+5.0 [-7.4, +17.4] | 1 to 3 | 13 / 28 / 14 | 3 |" in markdown(cells)
    assert "guarded too" not in markdown(cells), "a column for nothing"
    assert len({line.count("|") for line in markdown(cells).splitlines()}) == 1


def test_with_guarded_correction_for_all_a_rival_may_take_it_and_ours_has_its_one_way() -> None:
    cells = []
    for seed, ours in enumerate((0.9, 0.8)):
        cells += [cell(method, "zero_shot_em", 0.5, seed) for method in SENT]
        cells += [
            cell(method, "zero_shot_guarded", 0.4, seed) for method in SENT if method not in ("fedavg", "fedprints")
        ]
        cells += [
            cell("fedavg", "zero_shot_guarded", ours + 0.05, seed),
            cell("fedprints", "zero_shot_guarded", ours, seed),
        ]
    (row,) = summary_rows(cells)
    assert row.accuracies["fedavg"].tolist() == [0.5, 0.5]
    assert row.accuracies["fedjets"].tolist() == row.guarded["fedjets"].tolist() == [0.5, 0.5]
    assert "| +35.0 [-28.5, +98.5] | -5.0 [-5.0, -5.0] |" in markdown(cells)
    assert "the same, others guarded too" in markdown(cells)


def test_an_unfinished_guest_leaves_the_maps_own_methods_there(tmp_path: Path) -> None:
    runs = runs_of([("rotated", 3)], tmp_path, ("", ""), (), 1, (), {"ifca": "ifca"})
    done = [*runs["rotated", 3]]
    assert map_of(runs) == []
    for part, place in done[:2]:
        finish(place.path / "run", dict(place.config), part.methods)
    found = {cell.method for cell in map_of(runs)}
    assert found == set(METHODS)


def finish(folder: Path, config: dict[str, Value], methods: Mapping[str, str]) -> None:
    """Leaves what `map_of` reads of a finished run."""
    folder.mkdir(parents=True)
    run = RunFolder(folder)
    run.write_settings(from_flat(config))
    run.write_environment({"commit": "abc"})
    told = {"zero_shot": {"mean": 0.5}, "zero_shot_guarded": {"mean": 0.5}}
    figures = {**dict.fromkeys(methods, told), "common expert": {"plain": {"mean": 0.25}}}
    run.write_summary({"methods": figures, "bytes": {"by_method": {}}})
    (folder / "rounds.jsonl").write_text('{"assignment": {"1": [0]}}\n')


def test_a_method_that_was_not_told_for_all_seeds_is_refused() -> None:
    cells = [
        cell(method, "zero_shot_guarded" if method == "fedprints" else "em", 0.5, seed)
        for method in SENT
        for seed in (1, 2)
    ]
    with pytest.raises(DataError, match="fedavg"):
        summary_rows([own for own in cells if (own.method, own.seed) != ("fedavg", 2)])


def test_cells_come_back_from_the_file_and_its_regimes_are_not_trained_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ways = {method: "zero_shot_guarded" if method == "fedprints" else "em" for method in SENT}
    cells = [replace(cell(method, way, 0.25, seed=7, groups=3), commit="abc") for method, way in ways.items()]
    write_csv(cells, tmp_path / "known.csv")
    assert read_csv(tmp_path / "known.csv") == cells
    known = ["--known", str(tmp_path / "known.csv"), "--output", str(tmp_path / "map"), "--only", "^iid$"]
    main([*known, "--seeds", "7"])
    told = capsys.readouterr().out
    assert "25.0" in told
    assert "begun" not in told
    assert read_csv(tmp_path / "map" / "map.csv") == cells
    main(["--output", str(tmp_path / "other"), "--draw-only", "--seeds", "8..9", "--only", "^(iid|rotated)$"])
    told = capsys.readouterr().out
    assert (
        "left out of table and figure, for not all methods were run (regime and seeds): iid 8, 9; rotated 8, 9" in told
    )
    assert not (tmp_path / "other" / "map.png").exists()
    with pytest.raises(SettingsError, match="would write over"):
        main(["--known", str(tmp_path / "map" / "map.csv"), "--output", str(tmp_path / "map")])
    assert known_of(tmp_path / "known.csv", ["iid"], [7]) == cells
    write_csv(cells[1:], tmp_path / "known.csv")
    assert known_of(tmp_path / "known.csv", ["iid"], [7]) == [], "a method is missing"
    write_csv([*cells[:-1], replace(cells[-1], prediction="zero_shot_em")], tmp_path / "known.csv")
    assert known_of(tmp_path / "known.csv", ["iid"], [7]) == [], "FedPrints predicted in another way"
    (tmp_path / "known.csv").write_text("regime,seed\n")
    with pytest.raises(DataError, match="must have the columns"):
        main([*known, "--seeds", "7"])


@pytest.mark.parametrize("name", ["map.csv", "map-untold.csv"])
def test_a_committed_map_is_drawn_without_data_or_a_run(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = Path(__file__).parents[2] / "docs" / name
    main(["--known", str(file), "--output", str(tmp_path), "--draw-only"])
    told = capsys.readouterr().out
    assert REGIMES["rotated"].title in told
    assert (tmp_path / "map.csv").read_text() == file.read_text()


@pytest.mark.slow
def test_a_toy_map_is_trained_drawn_and_not_trained_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = "data.name='clusters' num-server-rounds=1 clients.num=20 clients.samples=20 data.public-samples=100"
    command = ["--output", str(tmp_path), "--seeds", "1", "--only", "^rotated$", "--jobs", "2", "-c", small]
    main(command)
    assert "rotated/fedprints-1: done" in capsys.readouterr().out
    rows = list(csv.DictReader((tmp_path / "map.csv").read_text().splitlines()))
    assert {row["method"] for row in rows} == set(METHODS)
    assert all(0 <= float(row["accuracy"]) <= 1 for row in rows)
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")
    assert "look: rotations, negative" in (tmp_path / "map.md").read_text()
    main(command)
    assert capsys.readouterr().out.count("skipped") == 4


@pytest.mark.slow
def test_the_groups_of_toy_regimes_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    small = "data.name='clusters' clients.num=40 clients.samples=60 data.public-samples=400 common-expert.epochs=5"
    groups.main(["--seeds", "1..2", "--only", "^(iid|rotated|concept)$", "-c", small])
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines() if line.startswith("| ")][2:]
    cells = {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows}
    assert [cells[REGIMES[name].title][0] for name in ("iid", "concept", "rotated")] == ["1", "1", "5"]
    assert [cells[REGIMES[name].title][1] for name in ("iid", "concept")] == ["1", "1"]
    assert cells[REGIMES["iid"].title][4] == "5", "k-means finds as many groups as it is told"
    assert "(" in cells[REGIMES["rotated"].title][1]


def test_a_guest_has_columns_of_its_own_and_does_not_count_among_the_maps_methods() -> None:
    cells = []
    for seed, mine in enumerate((0.9, 0.8)):
        cells += [cell(method, "zero_shot_guarded" if method == "fedprints" else "em", 0.5, seed) for method in SENT]
        cells += [replace(own, regime="rotated") for own in cells[-len(SENT) :]]
        cells += [Cell("iid", seed, "mine", "zero_shot_em", mine, 7.0)]
        cells += [Cell("iid", seed, "mine", "zero_shot_guarded", 0.99, 7.0)]
    first, second = summary_rows(cells)
    assert first.rival != "mine"
    assert "mine" not in second.accuracies
    lines = markdown(cells).splitlines()
    assert lines[0].endswith("| mine | mine against the best of the map [95 %] | its MB |")
    assert lines[2].endswith("| 2 | 85.0 | +35.0 [-28.5, +98.5] | 7 |")
    assert lines[3].endswith("| 2 | - | - | - |")


@pytest.mark.parametrize("name", ["iid", "rotated"])
def test_a_guest_sends_at_most_what_fedjets_sends(name: str, tmp_path: Path) -> None:
    done = [(name, 3)]
    ((part, place),) = runs_of(done, tmp_path, ("", ""), (), 1, done, {"ifca": "ifca"})[name, 3]
    assert part.methods == {"ifca": "ifca"}
    settings = from_flat(dict(place.config))
    assert settings.train.logit_adjustment
    assert settings.clients.matched_bytes
    per_client = 1 + settings.experts.num  # the whole pool down, one model up
    clients = matched_count(settings.clients, settings.experts.top_k, per_client, 100)
    assert clients * per_client <= 2 * TRANSFERS < (clients + 1) * per_client


@pytest.mark.parametrize(
    ("methods", "message"), [(["fedavg"], "not the map's own"), (["/a.py:Mine", "/b.py:Mine"], "a name of its own")]
)
def test_a_guest_must_have_a_name_of_its_own(methods: list[str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        guests_of(methods)


@pytest.mark.slow
def test_a_stranger_adds_a_method_by_one_file_and_gets_its_column_beside_a_known_map(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.py"
    file.write_text("from strategies.fedavg import FedAvg\n\n\nclass Mine(FedAvg): ...\n")
    ways = {method: "zero_shot_guarded" if method == "fedprints" else "em" for method in SENT}
    known = [cell(method, way, 0.25, seed=1, regime="rotated") for method, way in ways.items()]
    write_csv(known, tmp_path / "known.csv")
    small = "data.name='clusters' num-server-rounds=1 clients.num=20 clients.samples=20 data.public-samples=100"
    words = ["--output", str(tmp_path / "map"), "--only", "^rotated$", "--jobs", "1", "-c", small]
    main([*words, "--seeds", "1..2", "--known", str(tmp_path / "known.csv"), "--method", f"{file}:Mine"])
    told = capsys.readouterr().out
    assert told.count(": done") == 1, "seed 2 is not known"
    assert "rotated 2" in told
    cells = read_csv(tmp_path / "map" / "map.csv")
    assert [own for own in cells if own.method != "mine"] == known
    predictions = {own.prediction for own in cells if own.method == "mine"}
    assert predictions == {"zero_shot", "zero_shot_em", "zero_shot_guarded"}
    assert "| mine | mine against the best of the map" in told


@pytest.mark.parametrize("command", ["regimes", "groups", "ceilings"])
def test_a_wrong_word_is_told_in_a_line(command: str, tmp_path: Path) -> None:
    words = [sys.executable, "-m", f"benchmarks.{command}", "--only", "^nowhere$"]
    more = ["--output", str(tmp_path)] if command == "regimes" else []
    done = subprocess.run([*words, *more], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("fedmoe: --only must fit a regime's name, got '^nowhere$'")
