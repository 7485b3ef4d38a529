"""The command, at toy size: what it prints, and what it writes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import record, throughput
from fedmoe import __version__

ROOT = Path(__file__).parents[2]
SIDES = ["fedmoe", "loop"]  # each costs seconds, most of them for importing torch


def test_the_command_prints_a_table_and_writes_all_that_was_measured(tmp_path, capsys, monkeypatch):
    file = tmp_path / "below" / "throughput.json"
    monkeypatch.setenv("COLUMNS", "100")
    asked = ["--toy", "--work", "w1", "--sides", ",".join(SIDES), "--repetitions", "2", "--threads", "1"]
    throughput.main([*asked, "--warm-up", "1", "--json", str(file)])
    printed = capsys.readouterr()
    assert "toy w1" in printed.out
    assert "fedmoe is" in printed.out
    assert all(f" {name} " in printed.out for name in SIDES)
    assert "w1 2/2 loop: " in printed.err
    written = json.loads(file.read_text())
    assert written["benchmark"] == "throughput"
    assert written["facts"] == {"threads": 1, "warm_up": 1, "omp_wait_policy": "", "repetitions": 2, "toy": True}
    versions = written["environment"]["versions"]
    assert versions["fedmoe"] == __version__
    assert {"torch", "flwr", "ray", "pfl"} <= versions.keys()
    assert {"commit", "cpu", "memory_bytes"} <= written["environment"].keys()
    result = written["results"]["w1"]
    assert (result["samples"], result["compared_with"]) == (48, "fedmoe")
    assert result["work"]["network"] == "perceptron"
    assert list(result["sides"]) == SIDES
    for side in result["sides"].values():
        assert len(side["seconds"]) == 2
        assert side["ready"]["samples"] == [48]
        assert side["ready"]["torch_threads"] == 1
        assert side["per_second"] == pytest.approx(48 / side["seconds_median"])
    policies = {name: side["ready"]["omp_wait_policy"] for name, side in result["sides"].items()}
    assert policies == {"fedmoe": "PASSIVE", "loop": None}


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["--work", "w7"], "'w7' must be one of w1, w2"),
        (["--sides", "fedml"], "'fedml' must be one of fedmoe"),
        (["--work", "fj-mlp", "--sides", "pfl"], "none of --sides pfl does the work fj-mlp; hint: fedmoe,"),
        (["--repetitions", "1"], "a whole number of at least 2"),
    ],
)
def test_what_cannot_be_measured_is_refused(asked, message, capsys):
    with pytest.raises(SystemExit):
        throughput.main(asked)
    assert message in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("work", ["w1", "w2", "fj-mlp", "fj-resnet8"])  # in bf16 its side is the same
def test_flower_s_side_does_the_same_work_on_ray_and_leaves_nothing(work, tmp_path):
    file = tmp_path / "throughput.json"
    asked = ["--toy", "--work", work, "--sides", "fedmoe-loop,centralised,flower", "--repetitions", "2"]
    command = [sys.executable, "-m", "benchmarks.throughput", *asked, "--json", str(file)]
    environment = os.environ | {"BENCHMARK_TEST": str(tmp_path)}  # which every process inherits
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    sides = {name: side["ready"] for name, side in json.loads(file.read_text())["results"][work]["sides"].items()}
    assert set(sides) == {"fedmoe-loop", "flower", "centralised"}
    assert len({side["parameters"] for side in sides.values()}) == 1
    assert all(side["samples"] == [48, 48] for side in sides.values())
    assert sides["flower"]["actors"] == 2
    assert heirs_of(f"BENCHMARK_TEST={tmp_path}") == []


def test_where_no_file_is_asked_for_one_is_written_below_build_and_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(record, "FOLDER", tmp_path / "build" / "benchmarks")
    throughput.main(["--toy", "--work", "w1", "--sides", "loop", "--repetitions", "2", "--warm-up", "1"])
    file = tmp_path / "build" / "benchmarks" / "throughput-toy.json"
    assert f"w1 is in {file}" in capsys.readouterr().out
    assert json.loads(file.read_text())["facts"]["toy"] is True
    command = ["git", "check-ignore", "--quiet", "build/benchmarks/throughput.json"]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode in (0, 128), "git ignores it, where git is"


def heirs_of(variable):
    """Returns the processes that run with this environment variable."""
    found = []
    for environment in Path("/proc").glob("[0-9]*/environ"):
        try:
            if variable.encode() in environment.read_bytes().split(b"\0"):
                found.append(environment.parent.name)
        except OSError:
            continue  # it has ended, or is not ours to look at
    return found
