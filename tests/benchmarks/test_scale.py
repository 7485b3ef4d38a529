"""The command, at toy size: what it prints, and what it writes."""

import json
import os
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from rich.console import Console

from benchmarks import scale, scale_data
from benchmarks.scale_case import PUBLIC, SAMPLES, TEST_SAMPLES, Case
from benchmarks.scale_run import run_case
from fedmoe.data.contracts import LoadRequest
from fedmoe.settings import from_flat

MARKS = {"imported", "prepared", "early", "late"}


def in_this_process(case: Case, data: Path) -> dict[str, Any]:
    with mock.patch.dict(os.environ, {"FEDMOE_HOME": str(data.parent / "home")}):
        return run_case(case, data)


def check(row: dict[str, Any]) -> None:
    assert row["updates"] == 3 * 6
    assert len(row["round_seconds"]) == 3
    assert set(row["memory"]) == MARKS
    assert row["samples"] == row["clients"] * SAMPLES + PUBLIC + TEST_SAMPLES
    assert row["data_bytes"] > row["samples"] * (64 + 8)
    assert 0 < row["memory"]["early"]["peak"] <= row["memory"]["late"]["peak"]


def test_the_command_prints_a_table_for_each_growth_and_writes_all_that_was_measured(tmp_path, capsys, monkeypatch):
    file = tmp_path / "below" / "scale.json"
    monkeypatch.setenv("COLUMNS", "200")
    with mock.patch.object(scale, "in_its_own_process", in_this_process):  # each takes seconds to import all
        scale.main(["--toy", "--json", str(file), "--repetitions", "2"])
    said = capsys.readouterr()
    printed = said.out
    turns = [(line[:3], int(line.split("clients=")[1].split()[0])) for line in said.err.splitlines()]
    assert turns[:4] == [("1/2", 30), ("1/2", 60), ("2/2", 60), ("2/2", 30)], "they take turns"
    assert f"nodes is in {file}" in printed
    assert "clients grow; else per round 6, experts 2, nodes 1, rounds 3" in printed
    assert "nodes grow; else clients 30, per round 6" in printed
    assert "memory above the data itself, 60 clients against 30: " in printed
    written = json.loads(file.read_text())
    assert written["benchmark"] == "scale"
    assert written["facts"] == {"toy": True, "rounds": 20, "workers": 0, "repetitions": 2}
    rows = [row for rows in written["results"].values() for row in rows]
    assert [(row["clients"], row["nodes"]) for row in rows] == [(30, 1), (60, 1), (30, 1), (30, 2)]
    for row in rows:
        assert len(row["runs"]) == 2
        for run in row["runs"]:
            check(run)
        first, second = (run["round_median"] for run in row["runs"])
        assert row["round_median"] == pytest.approx((first + second) / 2)
        assert row["memory"]["late"]["peak"] == sum(run["memory"]["late"]["peak"] for run in row["runs"]) / 2


def test_a_configuration_runs_in_a_process_of_its_own() -> None:
    case = scale.sweeps(True, 3, 1)["clients"][0]
    row = scale.measure(case, Console(quiet=True))
    check(row)
    assert {key: row[key] for key in vars(case)} == vars(case)


def test_a_process_that_fails_is_quoted(tmp_path: Path) -> None:
    process = tmp_path / "python"
    process.write_text("#!/bin/sh\necho 'some words' >&2\necho 'no memory' >&2\nexit 3\n")
    process.chmod(0o755)
    case = Case(clients=30, per_round=6)
    with (
        mock.patch.object(sys, "executable", str(process)),
        pytest.raises(SystemExit, match=r"failed with 3(.|\n)*no memory"),
    ):
        scale.in_its_own_process(case, tmp_path)


def test_growth_is_told_against_the_first_row_and_a_broken_promise_is_said() -> None:
    def row(clients: int, peak: int, data: int) -> dict[str, Any]:
        run = {"clients": clients, "memory": {"late": {"peak": peak}}, "data_bytes": data}
        return {**run, "runs": [run]}

    rows = [row(100, 900, 0), row(1_000, 1_000, 0), row(10_000, 1_200, 100), row(100_000, 1_800, 500)]
    assert (
        "100,000 clients against 1,000: 1.30x by the medians, 1.30x to 1.30x by turns (at most 1.3x is promised: kept)"
        in scale.verdict(rows)
    )
    rows[-1]["data_bytes"] = 490
    assert "BROKEN" in scale.verdict(rows)


def test_every_configuration_is_one_that_the_settings_allow(tmp_path: Path) -> None:
    planned = scale.sweeps(False, 20, 2)
    assert max(case.clients for case in planned["clients"]) == 100_000
    for name, cases in planned.items():
        assert len({getattr(case, name) for case in cases}) == len(cases)
        for case in cases:
            settings = from_flat(case.settings(tmp_path))
            assert settings.experts.num <= case.labels


def test_a_data_set_comes_back_as_it_was_written_whatever_the_size_of_a_piece(tmp_path, monkeypatch) -> None:
    request = LoadRequest(root=str(tmp_path), seed=0, download_timeout=1.0)
    scale_data.write(tmp_path, 700, 300, 10)
    data = scale_data.stored(request)
    assert (data.num_train, data.class_names, data.x_NCHW.shape) == (700, tuple("0123456789"), (1000, 1, 8, 8))
    assert data.x_NCHW.dtype == np.uint8
    assert np.bincount(data.y_N).tolist() == [100] * 10
    means = np.array([data.x_NCHW[data.y_N == label].mean(axis=0) for label in range(10)])
    distances = [np.abs(means - picture).sum(axis=(1, 2, 3)).argmin() for picture in data.x_NCHW]
    assert (np.array(distances) == data.y_N).all(), "a class looks like itself"
