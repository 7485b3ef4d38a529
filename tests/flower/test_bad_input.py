"""Laws of bad input: it is told in one line, exit status 2, before anything starts; and nothing is overwritten."""

import errno
import os
import re
import shutil
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from PIL import Image

import fedmoe.flower.server_app as server
import tests.small
from fedmoe import cli
from fedmoe.errors import FedmoeError
from fedmoe.flower.methods import build_strategy
from fedmoe.settings import Settings, from_flat
from tests.small import SMALL, newest_bytes, rounds_of, run_small

APP = """
[project]
name = "small"
version = "0.1.0"
description = "the smallest whole run, as a folder that Flower can run"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "fedmoe"

[tool.flwr.app.components]
serverapp = "fedmoe.flower.server_app:app"
clientapp = "fedmoe.flower.client_app:app"

[tool.flwr.app.config]
"""
# What a person writes -> what she is told. Everything here is known without looking at the data.
REFUSED = {
    "an unknown key": (
        "train.learning-rat=0.1",
        "unknown setting 'train.learning-rat'; did you mean 'train.learning-rate'",
    ),
    "an unknown table": ("trian.epochs=1", "unknown setting 'trian.epochs'; did you mean 'train.epochs'?"),
    "a word for a number": ("train.epochs='two'", "train.epochs must be of type int, got 'two' (str)"),
    "a fraction for a whole number": ("clients.num=2.5", "clients.num must be of type int, got 2.5 (float)"),
    "a number for a word": ("gate.name=3", "gate.name must be of type str, got 3 (int)"),
    "a number for a switch": ("deterministic=1", "deterministic must be of type bool, got 1 (int)"),
    "not a number": ("train.learning-rate=nan", "train.learning-rate must be a finite number, got nan"),
    "more held experts than experts": ("experts.top-k=4", "experts.top-k must be at most experts.num (3), got 4"),
    "more anchors than experts": (
        "clients.anchors-per-round=4",
        "clients.anchors-per-round must be at most experts.num (3), got 4",
    ),
    "no client": ("clients.num=0", "clients.num must be at least 1, got 0"),
    "no client in a round": ("clients.per-round=0", "clients.per-round must be at least 1, got 0"),
    "no unseen client": ("clients.unseen=0", "clients.unseen must be at least 1, got 0"),
    "no round": ("num-server-rounds=0", "num-server-rounds must be at least 1, got 0"),
    "a negative rate": ("train.learning-rate=-0.1", "train.learning-rate must be greater than 0, got -0.1"),
    "a negative gate rate": (
        "train.gate-learning-rate=-1.0",
        "train.gate-learning-rate must be greater than 0, got -1.0",
    ),
    "a negative share": ("clients.min-completed=-0.5", "clients.min-completed must be at least 0, got -0.5"),
    "an unknown strategy": ("strategy.name='fedjet'", "unknown strategy 'fedjet'; did you mean 'fedjets'? known: "),
    "an unknown baseline": ("evaluate.baselines='fedavg,fedprx'", "unknown strategy 'fedprx'; did you mean 'fedprox'?"),
    "a baseline twice": ("evaluate.baselines='fedavg,fedavg'", "each method must be there once, got 'fedavg' 2 times"),
    "no strategy": (
        "strategy.name='fedmoe.errors:FedmoeError'",
        "must be a subclass of flwr.serverapp.strategy.Strategy",
    ),
    "a strategy of no module": ("strategy.name='no.module:Mine'", "strategy: no module named 'no.module'; hint: "),
    "a strategy of a lost file": (
        "strategy.name='/no/file.py:Mine'",
        "strategy: '/no/file.py' must be the absolute path",
    ),
    "an unknown gate": ("gate.name='mlpp'", "unknown gate 'mlpp'; did you mean 'mlp'? known: "),
    "unknown data": ("data.name='cifar11'", "unknown data set 'cifar11'; did you mean 'cifar10'? known: "),
    "an unknown partition": ("clients.partition='dirichle'", "unknown partition 'dirichle'; did you mean 'dirichlet'?"),
    "an unknown expert": ("experts.model='resnet9'", "unknown expert 'resnet9'; did you mean 'resnet8'? known: "),
    "an unknown common expert": ("common-expert.model='resnet9'", "unknown expert 'resnet9'; did you mean 'resnet8'?"),
    "an argument of the wrong type": (
        "strategy.fedprox.mu='much'",
        "strategy.fedprox.mu must be of type float, got 'much'",
    ),
    "an argument out of range": ("strategy.fedprox.mu=-1.0", "strategy.fedprox.mu must be at least 0, got -1.0"),
    "an argument that is no choice": (
        "strategy.fedjets.output='x'",
        "strategy.fedjets.output must be one of probability",
    ),
    "a run folder that is not there": (
        "resume='/no/such/folder'",
        "a run folder must hold settings.yaml, got '/no/such/",
    ),
    "a run folder by a relative path": (
        "resume='runs/last'",
        "resume must be the absolute path of a run folder, got 'runs/",
    ),
    "a preset that is not there": ("no/such.toml", "--run-config cannot be read: "),
    "text without quotes": (
        "train.epochs=1 strategy.name=fedavg",
        "--run-config takes text in quotes, got strategy.name=fedavg; hint: strategy.name='fedavg'",
    ),
    "no value": ("train.epochs=", "--run-config must be \"key=value ...\" or one TOML file, got 'train.epochs='"),
    "a space too many": (
        "train.epochs= 3",
        "--run-config must be \"key=value ...\" or one TOML file, got 'train.epochs= 3'",
    ),
}
WRITTEN_OUT = {
    "seed": 0,
    "strategy.fedprox.mu": 0.01,
    "strategy.fedjets.output": "probability",
    "resume": "",
    "deterministic": True,
    "clients.min-completed": 0.5,
    "clients.labels-per-client": 2,
    "train.gate-learning-rate": 0.05,
    "common-expert.model": "",
    "gate.name": "mlp",
    "strategy.name": "fedjets",
    "evaluate.baselines": "fedprox",
    "experts.model": "mlp",
    "train.epochs": 1,
    "output-dir": "",
    "data.root": "",
}
"""What stands in the app's table besides, so that a command line can override it."""


def toml(value):
    return str(value).lower() if isinstance(value, bool) else repr(value)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with an app, and nothing else: no cache, no run."""
    (tmp_path / "app").mkdir()
    lines = [f"{key} = {toml(value)}" for key, value in (SMALL | WRITTEN_OUT).items()]
    (tmp_path / "app/pyproject.toml").write_text(APP + "\n".join(lines))
    monkeypatch.setenv("FEDMOE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(server, "write_report", mock.Mock())
    monkeypatch.setattr(server, "TensorBoardLogger", mock.Mock())
    return tmp_path


def say(place, capsys, monkeypatch, *options):
    """Returns exit status and error stream of `fedmoe run` on the app at this place."""
    monkeypatch.setattr("sys.argv", ["fedmoe", "run", str(place / "app"), *options])
    capsys.readouterr()
    try:
        cli.main()
    except SystemExit as end:
        return end.code or 0, capsys.readouterr().err
    return 0, capsys.readouterr().err


def expect_one_line(answer, message):
    status, told = answer
    assert status == 2, told
    assert told.startswith("fedmoe: "), told
    assert message in told
    assert told.endswith("\n")
    assert told.count("\n") == 1, told


def contents(folder: Path):
    """Returns the bytes of every file below a folder."""
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def config_of(place, **changes):
    return SMALL | {"output-dir": str(place / "runs")} | changes


class NoGrid:
    """A grid that must not be asked for anything."""

    def __getattr__(self, name):
        raise AssertionError(f"the grid was asked for {name}")


@pytest.mark.parametrize("case", REFUSED)
def test_a_wrong_setting_is_one_line_before_any_data_is_loaded(case, place, capsys, monkeypatch):
    written, message = REFUSED[case]

    def loaded(request):
        raise AssertionError("the data were loaded")

    monkeypatch.setattr(tests.small, "blobs", loaded)
    answer = say(place, capsys, monkeypatch, "-c", f"output-dir='{place / 'runs'}'", "-c", written)
    expect_one_line(answer, message)
    assert [path.name for path in place.iterdir()] == ["app"]


def test_what_the_cases_above_start_from_is_a_run_that_works(place, capsys, monkeypatch):
    answer = say(place, capsys, monkeypatch, "--run-config", f"output-dir='{place / 'runs'}'")
    assert answer[0] == 0, answer
    assert len(list((place / "runs").iterdir())) == 1


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("train.learning-rat", "unknown setting 'train.learning-rat'; did you mean 'train.learning-rate'?"),
        ("strategy.fedjets.agregation", "strategy.fedjets has no argument 'agregation'; did you mean 'aggregation'?"),
        ("strategy.fedjetz.aggregation", "unknown strategy 'fedjetz'; did you mean 'fedjets'?"),
    ],
)
def test_a_wrong_key_in_the_apps_own_table_is_refused_by_the_server_before_it_asks_any_node(place, key, message):
    with pytest.raises(FedmoeError, match=re.escape(message)):
        server.run(NoGrid(), config_of(place, **{key: 1.0}))
    assert not (place / "home").exists()
    assert not (place / "runs").exists()


def test_under_flower_an_output_folder_must_be_absolute_for_the_working_directory_is_another(place):
    with pytest.raises(FedmoeError, match="output-dir must be an absolute path, got 'runs'"):
        server.run(NoGrid(), SMALL | {"output-dir": "runs"})
    assert not (place / "home").exists()


def test_a_strategy_argument_of_no_strategy_names_the_right_one():
    settings = from_flat({"strategy.fedprox.nu": 0.1})
    with pytest.raises(FedmoeError, match=r"strategy\.fedprox has no argument 'nu'; did you mean 'mu'"):
        build_strategy("fedprox", settings)
    assert build_strategy("fedprox", Settings())


@pytest.mark.parametrize("partition", ["random-labels", "aligned", "pathological"])
def test_more_labels_a_client_than_classes_is_one_line_before_a_run_folder_is_made(
    place, capsys, monkeypatch, partition
):
    written = f"output-dir='{place / 'runs'}' clients.labels-per-client=7 clients.partition='{partition}'"
    answer = say(place, capsys, monkeypatch, "--run-config", written)
    expect_one_line(answer, "clients.labels-per-client must ")
    expect_one_line(answer, "got 7")
    assert not (place / "runs").exists()
    assert not (place / "home/cache/common").exists()


@pytest.mark.parametrize("folder", ["", "no/app/here"])
def test_a_folder_that_is_no_app_is_one_line(place, capsys, monkeypatch, folder):
    monkeypatch.setattr("sys.argv", ["fedmoe", "run", str(place / folder)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    expect_one_line((end.value.code, capsys.readouterr().err), "a simulation is a folder with a pyproject.toml, got ")


# Broken data


def cut_archive(root):
    (root / "cifar-10-python.tar.gz").write_bytes(b"\x1f\x8b\x08\x00" + bytes(1000))
    return "cifar10", "cifar-10-python.tar.gz"


def cut_idx(root):
    for name in (
        "train-images-idx3-ubyte",
        "train-labels-idx1-ubyte",
        "t10k-images-idx3-ubyte",
        "t10k-labels-idx1-ubyte",
    ):
        (root / name).write_bytes(b"\x00\x00\x08\x01\x00\x00\x00\x09abc")
    return "fashion_mnist", "ubyte"


def cut_picture(root):
    for name in ("cat", "dog"):
        (root / name).mkdir()
        for number in range(3):
            Image.fromarray(np.full((8, 8), 100 * number, np.uint8)).save(root / name / f"{number}.png")
    good = (root / "dog/1.png").read_bytes()
    (root / "dog/1.png").write_bytes(good[: len(good) // 2])
    return "imagefolder", "dog/1.png"


@pytest.mark.parametrize("break_data", [cut_archive, cut_idx, cut_picture])
def test_a_broken_data_file_is_named_in_one_line_and_left_as_it_is(place, capsys, monkeypatch, break_data):
    root = place / "data"
    root.mkdir()
    name, broken = break_data(root)
    before = contents(root)
    written = f"output-dir='{place / 'runs'}' data.root='{root}' data.name='{name}'"
    expect_one_line(say(place, capsys, monkeypatch, "--run-config", written), broken)
    assert contents(root) == before
    assert not (place / "runs").exists()


# Run folders


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of three rounds, with one baseline; its caches stand beside it."""
    folder = tmp_path_factory.mktemp("finished")
    return run_small(folder, settings=SMALL | WRITTEN_OUT, home=folder / "home")


@pytest.fixture
def old_run(finished, place):
    shutil.copytree(finished.parents[1] / "home", place / "home")
    return Path(shutil.copytree(finished, place / "runs" / finished.name))


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("seed=1", "differs in seed (0 there, 1 now)"),
        ("num-server-rounds=9", "differs in num-server-rounds (3 there, 9 now)"),
        ("strategy.fedprox.mu=0.5", "differs in strategy.fedprox.mu (0.01 there, 0.5 now)"),
        (
            "data.name='digits' experts.num=4",
            "differs in data.name ('tests.small:blobs' there, 'digits' now), experts.num",
        ),
    ],
)
def test_a_run_of_other_settings_is_not_gone_on_with_and_not_touched(
    place, old_run, capsys, monkeypatch, written, told
):
    before = contents(place)
    answer = say(place, capsys, monkeypatch, "--run-config", written, "--resume", str(old_run))
    expect_one_line(answer, told)
    assert contents(place) == before


def test_a_run_folder_without_readable_settings_is_not_touched(place, old_run, capsys, monkeypatch):
    (old_run / "settings.yaml").write_text("seed: [")
    before = contents(place)
    expect_one_line(
        say(place, capsys, monkeypatch, "--resume", str(old_run)), "settings.yaml' must hold the settings of a run"
    )
    assert contents(place) == before


@pytest.mark.parametrize("method", [".", "baselines/fedprox"])
def test_a_checkpoint_cut_short_is_told_and_after_the_hint_the_run_ends_with_the_same_bytes(
    place, old_run, capsys, monkeypatch, method
):
    whole = contents(old_run)
    newest = old_run / method / "checkpoints/round-000003.safetensors"
    newest.write_bytes(newest.read_bytes()[:-100])
    before = contents(old_run)
    answer = say(place, capsys, monkeypatch, "--resume", str(old_run))
    expect_one_line(answer, "a checkpoint must be as it was written, got ")
    expect_one_line(answer, "round-000003.safetensors': unreadable")
    expect_one_line(answer, "hint: remove it to go on from round 2")
    assert contents(old_run) == before

    newest.unlink()
    assert say(place, capsys, monkeypatch, "--resume", str(old_run))[0] == 0
    assert newest.read_bytes() == whole[newest]
    assert [line["round"] for line in rounds_of(old_run / method)] == [1, 2, 3]


def test_on_resume_an_altered_line_of_rounds_is_not_overwritten(place, old_run, capsys, monkeypatch):
    lines = (old_run / "rounds.jsonl").read_text().splitlines(keepends=True)
    (old_run / "rounds.jsonl").write_text("".join([lines[0], "{not json}\n", lines[2]]))
    before = contents(old_run)
    expect_one_line(say(place, capsys, monkeypatch, "--resume", str(old_run)), "rounds.jsonl")
    assert contents(old_run) == before


# A full disk


class FullDisk:
    """`os.fsync` of a disk that has room for so many files more."""

    def __init__(self, room):
        self.room, self.fsync = room, os.fsync

    def __call__(self, handle):
        self.room -= 1
        if self.room < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.fsync(handle)


def test_a_disk_that_is_full_at_any_moment_is_one_line_and_once_there_is_room_the_run_ends_with_the_same_bytes(
    place, finished, capsys, monkeypatch
):
    shutil.copytree(finished.parents[1] / "home", place / "home")
    options = ["--run-config", f"output-dir='{place / 'runs'}' evaluate.baselines=''"]
    stages = set()
    for room in (0, 3, 6, 7, 9, 11, 13):
        with monkeypatch.context() as disk:
            disk.setattr(os, "fsync", FullDisk(room))
            answer = say(place, capsys, monkeypatch, *options)
        expect_one_line(answer, "the disk is full; hint: free some space, then go on with --resume")
        run = next((place / "runs").iterdir())
        assert not list(run.rglob("*.tmp"))
        stages.add(len(list((run / "checkpoints").glob("*"))))
        if (run / "settings.yaml").exists():
            assert say(place, capsys, monkeypatch, *options, "--resume", str(run))[0] == 0
            assert newest_bytes(run) == newest_bytes(finished)
            assert rounds_of(run) == rounds_of(finished)
        shutil.rmtree(run)
    assert {0, 1} < stages, "the disk was never full in the middle of the rounds"


def test_a_disk_that_is_full_while_the_data_are_prepared_is_one_line_and_leaves_no_half(place, capsys, monkeypatch):
    def full(path, array):
        path.write_bytes(b"as much as there was room for")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    answer = say(place, capsys, monkeypatch, "--run-config", f"output-dir='{place / 'runs'}'")
    expect_one_line(answer, "could not be written: No space left on device; hint: free some space")
    assert not (place / "runs").exists()
    assert [path for path in (place / "home").rglob("*") if path.is_file()] == []
