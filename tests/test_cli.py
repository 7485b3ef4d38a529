"""The command line as a person uses it: run, look, write the report again."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fedmoe import cli

ROOT = Path(__file__).parents[1]
REDUCED = (
    "num-server-rounds=1 clients.num=8 clients.per-round=4 clients.anchors-per-round=2 clients.unseen=2 "
    "common-expert.epochs=1 evaluate.baselines=''"
)


def fedmoe(*words):
    """Returns the exit status of a command in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["fedmoe", *map(str, words)])
        try:
            cli.main()
        except SystemExit as end:
            return end.code or 0
    return 0


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """The run folder of the quickstart at reduced size, started beside its output folder and not in it."""
    place = tmp_path_factory.mktemp("cli")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        words = ("run", ROOT / "simulations/quickstart", "--nodes", "2", "-c", REDUCED, "-c", "output-dir='here'")
        assert fedmoe(*words) == 0
    return next((place / "here").iterdir())


def test_a_relative_output_folder_is_taken_from_where_the_person_stands(run_folder):
    summary = json.loads((run_folder / "summary.json").read_text())
    assert summary["run_folder"] == str(run_folder)
    assert summary["rounds"] == 1
    environment = json.loads((run_folder / "environment.json").read_text())
    assert environment["nodes"] == 2


def test_report_writes_the_same_page_again_and_says_where(run_folder, capsys):
    page = run_folder / "report.html"
    first = page.read_bytes()
    page.unlink()
    assert fedmoe("report", run_folder) == 0
    assert capsys.readouterr().out == f"{page}\n"
    assert page.read_bytes() == first


def test_a_whole_run_is_gone_on_with_and_stays_as_it_is(run_folder):
    before = {path: path.read_bytes() for path in sorted((run_folder / "checkpoints").iterdir())}
    lines = (run_folder / "rounds.jsonl").read_bytes()
    assert fedmoe("run", ROOT / "simulations/quickstart", "-c", REDUCED, "--resume", run_folder) == 0
    assert {path: path.read_bytes() for path in sorted((run_folder / "checkpoints").iterdir())} == before
    assert (run_folder / "rounds.jsonl").read_bytes() == lines


def test_a_report_on_what_is_no_run_is_one_line(tmp_path, capsys):
    assert fedmoe("report", tmp_path) == 2
    told = capsys.readouterr().err
    assert told.startswith("fedmoe: a run folder must hold settings.yaml, got ")
    assert told.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--help"], ("run", "report", "Federated mixtures of experts on Flower")),
        (["run", "--help"], ("SIMULATION: the folder of", "--run-config", "--resume", "--nodes")),
        (["report", "--help"], ("RUN_FOLDER, the folder of a run",)),
        (
            ["personalize", "--help"],
            ("RUN_FOLDER: of the run", "--images", "--client", "--method", "--samples", "--output"),
        ),
    ],
)
def test_help_names_every_command_and_option(words, told, capsys):
    assert fedmoe(*words) == 0
    out = capsys.readouterr().out
    assert [word for word in told if word.lower() not in out.lower()] == []


def test_the_installed_command_answers_in_a_process_of_its_own_without_torch_or_flower(tmp_path):
    command = [Path(sys.executable).with_name("fedmoe"), "run", "--help"]
    environment = os.environ | {"PYTHONPROFILEIMPORTTIME": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert done.returncode == 0
    assert "--run-config" in done.stdout
    assert not [line for line in done.stderr.splitlines() if line.split("|")[-1].strip() in ("torch", "flwr", "ray")]
