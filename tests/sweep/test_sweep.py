"""Whole sweeps of the quickstart: done runs are skipped, cut-off ones resumed, failures named."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from fedmoe.errors import FedmoeError, RunFolderError, SettingsError, SweepError
from fedmoe.flower.local_run import read_config
from fedmoe.flower.methods import methods_of
from fedmoe.flower.server_app import changed_note
from fedmoe.recording.run_folder import open_run_folder
from fedmoe.settings import from_flat
from fedmoe.sweep.command import places_of, run_sweep
from fedmoe.sweep.grid import Point
from fedmoe.sweep.place import folder_of, sweep_folder
from fedmoe.sweep.running import Told, run_all

ROOT = Path(__file__).parents[2]
QUICKSTART = ROOT / "simulations" / "quickstart"
SHORT = "num-server-rounds=3 evaluate.baselines='fedavg' evaluate.every=3 common-expert.epochs=1 train.trainer='loop'"
GRID = "strategy.name=fedjets,fedavg seed=0..1"
OWN_STRATEGY = """
from dataclasses import dataclass
from fedmoe.flower.strategy import ExpertStrategy

@dataclass
class Mine(ExpertStrategy):
    rate: float = 1.0
"""


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDMOE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(ROOT)


def stamps(output: Path) -> dict[str, int]:
    return {str(file): file.stat().st_mtime_ns for file in output.glob("*/*/summary.json")}


def test_two_methods_and_two_seeds_of_digits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out"
    run_sweep(QUICKSTART, [GRID], output, [SHORT], jobs=2)
    said = capsys.readouterr().out
    assert sorted(path.name for path in output.iterdir()) == [
        f"strategy.name={name},seed={seed}" for name in ("fedavg", "fedjets") for seed in (0, 1)
    ]
    assert said.count(": done in ") == 4
    assert "FedAvg" in said
    assert shlex.split(said.splitlines()[-1]) == ["fedmoe", "compare", str(output), "--against", "FedJETs, zero-shot"]
    before = stamps(output)
    assert len(before) == 4
    for file in before:
        summary = json.loads(Path(file).read_text())
        assert f"strategy.name={summary['strategy']},seed={summary['seed']}" in file
    in_another_order = " ".join(reversed(GRID.split()))
    run_sweep(QUICKSTART, [in_another_order], output, [SHORT], jobs=1)
    assert capsys.readouterr().out.count(": done before, ") == 4
    assert stamps(output) == before
    run_sweep(QUICKSTART, [GRID.replace("0..1", "0")], output, [SHORT])
    part = [str(Path(file).parent) for file in before if "seed=0" in file]
    assert sorted(shlex.split(capsys.readouterr().out.splitlines()[-1])[2:-2]) == sorted(part)
    with pytest.raises(RunFolderError, match=r"num-server-rounds is 3, here 4.*--output"):
        run_sweep(QUICKSTART, [GRID], output, [SHORT.replace("rounds=3", "rounds=4")])


def test_without_an_output_the_same_command_finds_what_is_done_and_another_one_has_its_own_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home, short = tmp_path / "mine", SHORT.replace("evaluate.baselines='fedavg'", "evaluate.baselines=''")
    common = f"{short} output-dir='{home}'"
    run_sweep(QUICKSTART, ["seed=3"], None, [common], jobs=1)
    before = {str(file): file.stat().st_mtime_ns for file in home.glob("sweeps/quickstart-*/seed=3/*/summary.json")}
    assert len(before) == 1
    (folder,) = {Path(file).parents[2] for file in before}
    assert f"runs go to {folder}\n" in capsys.readouterr().out
    run_sweep(QUICKSTART, ["seed=3"], None, [" ".join(reversed(common.split()))], jobs=1)
    assert ": done before, " in capsys.readouterr().out
    assert {file: Path(file).stat().st_mtime_ns for file in before} == before
    assert len(list(home.rglob("summary.json"))) == 1


def test_what_was_cut_off_goes_on_where_it_was(tmp_path: Path) -> None:
    output, told = tmp_path / "out", list[Told]()
    long = SHORT.replace("rounds=3", "rounds=150")
    places = places_of(QUICKSTART, ["seed=5"], output, [long], jobs=1)
    command = [sys.executable, "-m", "fedmoe", "sweep", str(QUICKSTART), "--over", "seed=5", "--output", str(output)]
    sweep = subprocess.Popen([*command, "-c", long], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and sweep.poll() is None:
        if any(len(file.read_text().splitlines()) > 3 for file in output.glob("*/*/rounds.jsonl")):
            break
        time.sleep(0.05)
    sweep.terminate()  # not Ctrl-C: whoever is started in the background is deaf to it
    assert sweep.wait(60) == 128 + signal.SIGTERM
    begun = places[0].newest()
    assert begun is not None
    assert places[0].done() is None
    done = len((begun / "rounds.jsonl").read_text().splitlines())
    assert 3 < done < 150
    assert not run_all(QUICKSTART, places, 1, told.append)
    assert [one.what for one in told] == ["resumed", "done"]
    assert places[0].done() == begun
    assert len((begun / "rounds.jsonl").read_text().splitlines()) == 150


def test_a_run_that_fails_is_named_and_the_others_are_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plugin = tmp_path / "stubborn.py"
    plugin.write_text(
        "from fedmoe.flower.strategy import ExpertStrategy\n"
        "class Stubborn(ExpertStrategy):\n"
        "    def sample(self, round_num, clients, rng):\n"
        "        raise ArithmeticError('not today')\n"
    )
    grid = f"strategy.name='{plugin}:Stubborn',fedavg"
    with pytest.raises(SweepError, match=r"1 of 2 runs failed.*log\.txt"):
        run_sweep(QUICKSTART, [grid], tmp_path / "out", [SHORT], jobs=2)
    said = capsys.readouterr().out
    assert ": FAILED after" in said
    assert said.count(": done in") == 1
    (log,) = (tmp_path / "out").glob("*Stubborn*/log.txt")
    assert "not today" in log.read_text()


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ("strategy.name=fedjest", "fedjets"),
        ("seed=-1", "seed"),
        ("gate.nmae=mlp", "gate.name"),
        ("gate.name=mlpp", "mlp"),
        ("strategy.name=ditto strategy.ditto.strenth=1", "strength"),
        ("evaluate.baselines=scaffold train.optimiser=adamw", "scaffold.*adamw"),
        ("strategy.name=fedadam,fedjets_adam experts.norm=batch", "BatchNorm"),
    ],
)
def test_a_wrong_setting_is_refused_before_anything_runs(tmp_path: Path, grid: str, message: str) -> None:
    with pytest.raises(FedmoeError, match=message):
        run_sweep(QUICKSTART, [grid], tmp_path / "out", [SHORT])
    assert not (tmp_path / "out").exists()


def test_an_argument_of_a_built_in_strategy_need_not_stand_in_the_app(tmp_path: Path) -> None:
    grid = "strategy.name=ditto strategy.ditto.strength=0.5,2"
    places = places_of(QUICKSTART, [grid], tmp_path, [SHORT], jobs=1)
    assert [place.config["strategy.ditto.strength"] for place in places] == [0.5, 2]


@pytest.mark.parametrize(
    "named", ["strategy.name={}", "evaluate.baselines={}", "strategy.name='lasso' strategy.lasso.over={}"]
)
def test_nor_does_one_of_a_strategy_of_ones_own(tmp_path: Path, named: str) -> None:
    file = tmp_path / "mine.py"
    file.write_text(OWN_STRATEGY)
    settings = [SHORT, named.format(f"'{file}:Mine'")]
    places = places_of(QUICKSTART, ["strategy.mine.rate=0.5,2"], tmp_path / "out", settings, jobs=1)
    assert [own_strategy(place.config).rate for place in places] == [0.5, 2]
    with pytest.raises(SettingsError, match="no argument 'rat'; did you mean 'rate'"):
        places_of(QUICKSTART, ["strategy.mine.rat=1"], tmp_path / "out", settings, jobs=1)
    with pytest.raises(SettingsError, match="unknown strategy 'mines'; did you mean 'mine'"):
        places_of(QUICKSTART, ["strategy.mines.rate=1"], tmp_path / "out", settings, jobs=1)


def test_an_argument_is_swept_where_a_run_has_its_strategy(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(OWN_STRATEGY)
    grid = f"strategy.name='{file}:Mine',fedavg,lasso strategy.mine.rate=0.5,2 seed=0..1"
    over = "strategy.lasso.over='fedavg'"
    places = places_of(QUICKSTART, [grid], tmp_path / "out", [SHORT, over], jobs=1)
    names = [place.point.name.replace(place.point.name.split(",")[0], "x", 1) for place in places]
    assert names == [
        *("x,strategy.mine.rate=0.5,seed=0", "x,strategy.mine.rate=0.5,seed=1"),
        *("x,strategy.mine.rate=2,seed=0", "x,strategy.mine.rate=2,seed=1"),
        *("x,seed=0", "x,seed=1") * 2,
    ]
    assert all(("strategy.mine.rate" in place.config) == ("mine.py" in place.point.name) for place in places)
    swept = places_of(QUICKSTART, [grid], tmp_path / "out", [SHORT, f"strategy.lasso.over='{file}:Mine'"], jobs=1)
    assert len(swept) == 4 + 2 + 4
    with pytest.raises(
        SettingsError, match=r"some run has, got 'strategy\.ditto\.strength'; hint: strategy\.name=ditto"
    ):
        places_of(QUICKSTART, ["strategy.ditto.strength=1,2"], tmp_path / "out", [SHORT], jobs=1)


def own_strategy(config: dict[str, Any]) -> Any:
    found = [getattr(method.strategy, "inner", method.strategy) for method in methods_of(from_flat(config))]
    return next(strategy for strategy in found if type(strategy).__name__ == "Mine")


def test_a_strategy_of_ones_own_and_others_are_swept_with_its_argument(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(OWN_STRATEGY)
    grid = f"strategy.name='{file}:Mine',fedjets"
    run_sweep(QUICKSTART, [grid], tmp_path / "out", [SHORT, "strategy.mine.rate=0.5"], jobs=2)
    assert len(list((tmp_path / "out").iterdir())) == 2
    notes = {}
    for summary in (tmp_path / "out").glob("*/*/summary.json"):
        told = json.loads(summary.read_text())
        notes[told["strategy"]] = [note for note in told["notes"] if "strategy.mine" in note]
    assert notes == {"mine": [], "fedjets": ["the settings table strategy.mine is used by no method of this run"]}


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({}, True),
        ({"train.workers": 1, "resume": ""}, True),  # what changes no figure
        ({"num-server-rounds": 5}, False),
        ({"data.root": "/elsewhere"}, False),
    ],
)
def test_a_sweeps_own_folder_tells_its_settings_apart(tmp_path: Path, changes: dict[str, Any], same: bool) -> None:
    _, plain = read_config(QUICKSTART, [])
    untouched = sweep_folder("quickstart", plain, plain)
    assert untouched == Path("~/fedmoe-runs/sweeps/quickstart").expanduser()
    given = {**plain, "output-dir": str(tmp_path), **changes}
    found = sweep_folder("quickstart", plain, given)
    assert found == sweep_folder("quickstart", plain, dict(reversed(given.items())))
    assert (found == tmp_path / "sweeps" / "quickstart") == same
    assert found.parent == tmp_path / "sweeps"
    assert found != sweep_folder("other", plain, given)


def test_values_reach_the_run_as_they_are(tmp_path: Path) -> None:
    (place,) = places_of(QUICKSTART, ["data.root='/a = \"b\"' train.learning-rate=1e-05"], tmp_path, [SHORT], jobs=1)
    assert place.config["data.root"] == '/a = "b"'
    assert place.config["train.learning-rate"] == 1e-5


def test_runs_at_a_time_share_the_cores(tmp_path: Path) -> None:
    cores = len(os.sched_getaffinity(0))
    (alone,), (beside,) = (places_of(QUICKSTART, ["seed=0"], tmp_path, [SHORT], jobs=n) for n in (1, cores + 1))
    assert alone.config["train.workers"] == 0
    assert beside.config["train.workers"] == 1


def test_a_run_of_a_file_that_has_changed_since_is_refused_and_a_resumed_one_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, output = tmp_path / "mine.py", tmp_path / "out"
    file.write_text("from strategies.fedavg import FedAvg\n\n\nclass Mine(FedAvg): ...\n")
    grid = [f"strategy.name={file}:Mine seed=0"]
    short = SHORT.replace("evaluate.baselines='fedavg'", "")
    run_sweep(QUICKSTART, grid, output, [short], jobs=1)
    (place,) = places_of(QUICKSTART, grid, output, [short], jobs=1)
    run = place.done()
    assert run is not None
    settings = open_run_folder(run).read_settings()
    assert changed_note(open_run_folder(run), settings) == []
    file.write_text(file.read_text() + "# edited\n")
    with pytest.raises(RunFolderError, match=r"another version of .*mine\.py:Mine"):
        places_of(QUICKSTART, grid, output, [short], jobs=1)
    (note,) = changed_note(open_run_folder(run), settings)
    assert "mine.py:Mine has changed since this run began" in note


def test_a_runs_folder_is_found_in_any_order_of_keys_and_its_own_name_comes_first(tmp_path: Path) -> None:
    one, other = Point((("a", "x"), ("b", 1), ("c", 2))), Point((("c", 2), ("a", "x"), ("b", 1)))
    assert folder_of(tmp_path, one) == tmp_path / one.name
    (tmp_path / other.name).mkdir()
    assert folder_of(tmp_path, one) == tmp_path / other.name
    (tmp_path / one.name).mkdir()
    assert [folder_of(tmp_path, point) for point in (one, other)] == [tmp_path / one.name, tmp_path / other.name]
    commas = [Point((("a", left), ("b", right))) for left, right in (("x,y", "z"), ("x", "z,y"))]
    (tmp_path / commas[0].name).mkdir()
    assert folder_of(tmp_path, commas[1]) == tmp_path / commas[1].name
