"""Laws of the run folder: never overwritten, read back as written, refused when it is of another run."""

import csv
import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest

from fedmoe.errors import RunFolderError
from fedmoe.recording.environment import describe_environment
from fedmoe.recording.run_folder import MAIN, RunFolder, check_same_settings, create_run_folder, open_run_folder
from fedmoe.settings import Settings, from_flat, to_flat


@pytest.fixture
def run(tmp_path):
    return create_run_folder(tmp_path, "cifar10", "fedjets", 3)


def test_a_folder_is_never_given_twice(tmp_path):
    paths = [create_run_folder(tmp_path, "cifar10", "fedjets", 3).path for _ in range(4)]
    assert len(set(paths)) == 4
    assert all(path.is_absolute() and path.name.startswith("cifar10-fedjets-s3-20") for path in paths)


@pytest.mark.parametrize("strategy", ["my.lab:Method", "/some/where/mine.py:Method", "../..:Method", "a b/c"])
def test_the_name_of_a_strategy_never_leads_out_of_the_folder(tmp_path, strategy):
    run = create_run_folder(tmp_path, "x", strategy, 0)
    assert run.path.parent == tmp_path
    assert run.method(strategy).path.parent == run.path / "baselines"
    assert run.method(MAIN).path == run.path


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "runs").write_text("")
    with pytest.raises(RunFolderError, match="runs"):
        create_run_folder(tmp_path / "runs", "cifar10", "fedjets", 0)


@pytest.mark.parametrize(
    "flat",
    [
        {},
        {"strategy.fedprox.mu": 0.01, "strategy.fedprox.some-name": True, "strategy.mine.word": "on"},
        {"train.learning-rate": 1e-05, "train.weight-decay": 1e-12, "clients.alpha": 3.0},
        {"data.root": "with: colon # and $not 'quotes'", "simulation": "007", "output-dir": "null"},
    ],
)
def test_settings_come_back_as_they_were_written(run, flat):
    settings = from_flat(flat)
    run.write_settings(settings)
    assert run.read_settings() == settings
    assert open_run_folder(run.path).path == run.path


def test_every_setting_is_in_the_file(run):
    run.write_settings(Settings())
    text = (run.path / "settings.yaml").read_text()
    assert all(f"{key.split('.')[-1]}:" in text for key in to_flat(Settings()))


@pytest.mark.parametrize(
    "content", ["", "seed: [", "seed: fast", "sed: 1", "- 1", "5", "strategy: 3", "\udcff", "clients:\n  num: 0"]
)
def test_damaged_settings_are_refused(run, content):
    (run.path / "settings.yaml").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(RunFolderError, match=r"settings\.yaml"):
        run.read_settings()


@pytest.mark.parametrize("name", ["gone", "."])
def test_a_folder_without_a_run_is_refused(tmp_path, name):
    with pytest.raises(RunFolderError, match="hint"):
        open_run_folder(tmp_path / name)


def test_other_settings_are_refused_by_name(run):
    run.write_settings(from_flat({"strategy.fedprox.mu": 0.1}))
    other = from_flat({"train.learning-rate": 0.5, "strategy.fedprox.mu": 0.2, "seed": 4})
    with pytest.raises(RunFolderError) as caught:
        check_same_settings(run, other)
    for words in ("train.learning-rate (0.01 there, 0.5 now)", "strategy.fedprox.mu", "seed", str(run.path)):
        assert words in str(caught.value)
    assert "batch-size" not in str(caught.value)


def test_only_where_a_run_lies_may_differ(run):
    run.write_settings(Settings())
    check_same_settings(run, from_flat({"resume": str(run.path), "output-dir": "/elsewhere"}))
    for key, value in to_flat(Settings()).items():
        if type(value) is bool and key not in ("resume", "output-dir"):
            with pytest.raises(RunFolderError, match=key):
                check_same_settings(run, from_flat({key: not value}))


def test_tables_come_back_as_strict_json(run):
    run.write_summary({"a": np.float32(0.5), "b": float("inf"), "c": {1: np.arange(2)}, "d": Path("x"), "e": "é"})
    text = (run.path / "summary.json").read_text(encoding="utf-8")
    assert json.loads(text, parse_constant=pytest.fail) == {"a": 0.5, "b": None, "c": {"1": [0, 1]}, "d": "x", "e": "é"}
    assert run.read_json("summary.json") == json.loads(text)
    assert run.read_json("environment.json") is None


@pytest.mark.parametrize("content", [b"{", b"[1]", b"\xff"])
def test_a_damaged_table_is_named(run, content):
    (run.path / "summary.json").write_bytes(content)
    with pytest.raises(RunFolderError, match=r"summary\.json"):
        run.read_json("summary.json")


def test_clients_come_back_with_every_column(run):
    rows = [{"client_id": 0, "labels": [1, 2]}, {"client_id": 1, "accuracy": 0.25, "labels": []}]
    run.write_clients(["client_id", "labels", "accuracy"], iter(rows))
    with (run.path / "clients.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows == [
        {"client_id": "0", "labels": "[1, 2]", "accuracy": ""},
        {"client_id": "1", "labels": "[]", "accuracy": "0.25"},
    ]


@pytest.mark.parametrize("fault", [KeyboardInterrupt, OSError(errno.ENOSPC, "No space left"), ValueError])
def test_rows_that_end_in_an_error_leave_the_old_table(run, fault):
    run.write_clients(["client_id"], [{"client_id": 7}])

    def rows():
        yield {"client_id": 0}
        raise fault

    with pytest.raises((KeyboardInterrupt, ValueError, RunFolderError)):
        run.write_clients(["client_id"], rows())
    assert (run.path / "clients.csv").read_text() == "client_id\n7\n"
    assert [item.name for item in run.path.iterdir()] == ["clients.csv"]
    with pytest.raises(ValueError, match="fields not in"):
        run.write_clients(["client_id"], [{"client": 0}])


@pytest.mark.parametrize(
    ("code", "words"), [(errno.ENOSPC, "disk is full"), (errno.EACCES, "permission denied"), (errno.EIO, "I/O")]
)
def test_a_disk_that_refuses_leaves_the_old_file(run, monkeypatch, code, words):
    run.write_summary({"rounds": 1})

    def refuse(*_):
        raise OSError(code, os.strerror(code).replace("Input/output", "I/O"))

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", refuse)
        with pytest.raises(RunFolderError, match=rf"summary\.json.*{words}"):
            run.write_summary({"rounds": 2})
    assert run.read_json("summary.json") == {"rounds": 1}
    assert [item.name for item in run.path.iterdir()] == ["summary.json"]


def test_the_environment_names_what_a_result_depends_on(run):
    environment = describe_environment({"partition_hash": "ab"})
    assert all(environment["versions"][name] for name in ("python", "torch", "numpy", "flwr", "fedmoe"))
    assert environment["partition_hash"] == "ab"
    assert environment["cpu"]["cores"] >= 1
    run.write_environment(environment)
    assert run.read_json("environment.json") == environment


def test_baselines_are_those_that_left_something(run):
    assert run.baselines() == []
    for name in ("fedprox", "fedavg"):
        run.method(name).checkpoints.mkdir(parents=True)
    assert run.baselines() == ["fedavg", "fedprox"]
    assert RunFolder(run.path).method("fedavg").rounds == run.path / "baselines" / "fedavg" / "rounds.jsonl"
