"""A client that is personalised gets what the run's own test gave it, to the last digit, whatever the method."""

import csv
import json
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from fedmoe.errors import RunFolderError, SettingsError
from fedmoe.personal import Personalizer
from fedmoe.recording.checkpoints import CheckpointIndex
from tests.small import run_small, small_config

KINDS: dict[str, dict[str, Any]] = {
    "FedJETs, its moving average, and baselines": {"evaluate.ema": 0.8, "evaluate.baselines": "fedavg,ifca,ensemble"},
    "FedJETs by votes, some samples, logit adjustment": {
        "strategy.fedjets.aggregation": "vote",
        "strategy.fedjets.output": "logit",
        "evaluate.samples": 25,
        "train.logit-adjustment": True,
    },
    "FedEM": {"strategy.name": "fedem"},
    "FedMix": {"strategy.name": "fedmix"},
    "FedRep, with heads of its own": {"strategy.name": "fedrep"},
    "a gate by lot": {"gate.name": "random"},
    "a gate that is told the group": {"gate.name": "oracle"},
    "a gate that falls back on the common expert": {"gate.name": "relu", "gate.relu.bias": 0.1},
    "a gate that reads the image": {"gate.name": "conv_router", "gate.conv_router.channels": 3},
    "a gate that averages over draws": {"gate.name": "gumbel", "gate.gumbel.samples": 4},
    "domains": {"clients.partition": "domain", "clients.domains": "identity,rotate90,negative"},
    "FedPrints, which brings its own gate": {
        "strategy.name": "fedprints",
        "clients.partition": "domain",
        "clients.domains": "identity,rotate90,negative",
        "experts.width": 16,
        "common-expert.epochs": 20,
    },
    "TaskMoE, by the nearest head": {"strategy.name": "taskmoe", "evaluate.ema": 0.5},
    "TaskMoE, by the head of the task that it tells": {
        "strategy.name": "taskmoe",
        "strategy.taskmoe.heads": "task",
        "strategy.taskmoe.told": True,
        "clients.partition": "domain",
        "clients.domains": "identity,rotate90,negative",
    },
    "heads on the common expert's embedding": {
        "experts.model": "head",
        "common-expert.model": "mlp",
        "evaluate.baselines": "fedavg,fedem",
    },
    "low-rank experts on the common expert": {"experts.model": "low_rank", "common-expert.model": "mlp"},
    "the common expert has a vote": {"evaluate.common-vote": 0.4, "evaluate.baselines": "fedavg,fedem"},
    "a plain Flower strategy": {"strategy.name": "flwr.serverapp.strategy:FedAvg", "evaluate.ema": 0.5},
}
CASES = [(kind, 0) for kind in KINDS] + [(kind, seed) for kind in list(KINDS)[:2] for seed in (1, 2)]


def told(run: Path) -> list[dict[str, str]]:
    """The rows of the unseen clients in `clients.csv`."""
    with (run / "clients.csv").open(newline="") as file:
        return [row for row in csv.DictReader(file) if row["role"] == "unseen"]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FEDMOE_HOME", str(tmp_path / "home"))
    return tmp_path


@pytest.mark.parametrize(("kind", "seed"), CASES)
def test_every_figure_of_every_method_is_that_of_the_run(place: Path, kind: str, seed: int) -> None:
    run = run_small(place, settings=small_config(seed=seed, num_server_rounds=2) | KINDS[kind])
    methods = list(json.loads((run / "summary.json").read_text())["methods"])[:-1]  # the last is the common expert
    rows, compared = told(run), 0
    for method in methods:
        personalizer = Personalizer(run, method)
        for number, row in enumerate(rows):
            found = personalizer.client(number)
            for name, share in found.accuracies.items():
                column = f"common_expert.{name}" if name in ("plain", "em") else f"{method}.{name}"
                assert share == float(row[column]), (method, number, name)
                compared += 1
            if method == methods[0]:
                assert list(found.experts) == json.loads(row["experts"])
            assert found.round_num == 2
    assert compared >= 4 * len(methods) * len(rows)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_small(tmp_path_factory.mktemp("run"), settings=small_config(evaluate__ema=0.8))


@pytest.fixture
def home(run: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The caches of the run."""
    monkeypatch.setenv("FEDMOE_HOME", str(run.parents[1] / "home"))
    return run


def test_a_run_that_was_cut_off_serves_by_its_newest_checkpoint(home: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut"
    cut.mkdir()
    for name in ("settings.yaml", "environment.json", "checkpoints/round-000002.safetensors"):
        (cut / name).parent.mkdir(exist_ok=True)
        (cut / name).write_bytes((home / name).read_bytes())
    found = Personalizer(cut).client(1)
    assert found.round_num == 2
    line = json.loads((home / "rounds.jsonl").read_text().splitlines()[1])["evaluate"]["clients"][1]
    assert (list(found.experts), found.accuracies["zero_shot"]) == (line["experts"], line["zero_shot"])


def test_labels_choose_nothing_and_the_arrays_hang_together(home: Path) -> None:
    personalizer = Personalizer(home)
    found = personalizer.client(2)
    wrong = (found.labels + 1) % 6
    blind, misled = (personalizer.images(found.images, labels) for labels in (None, wrong))
    assert blind.labels is None
    assert blind.accuracies == {}
    assert misled.accuracies != found.accuracies
    for other in (blind, misled):
        assert other.experts == found.experts
        for name, way in found.ways.items():
            np.testing.assert_array_equal(other.ways[name].predictions, way.predictions)
            np.testing.assert_allclose(other.ways[name].probabilities, way.probabilities, atol=1e-4)
    for way in found.ways.values():
        np.testing.assert_array_equal(way.probabilities.argmax(axis=1), way.predictions)
        np.testing.assert_allclose(way.probabilities.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(found.scores, found.routing.mean(axis=0))  # the aggregation is mean-probability
    held = found.routing[:, list(found.experts)]
    np.testing.assert_allclose(found.weights, held / held.sum(axis=1, keepdims=True))
    np.testing.assert_array_equal(found.chosen, np.array(found.experts)[held.argmax(axis=1)])
    assert set(found.seconds) == {"embed", "rank", "fetch", "predict", "correct"}
    assert min(found.seconds.values()) > 0


@pytest.mark.parametrize("kind", ["FedPrints, which brings its own gate", "heads on the common expert's embedding"])
def test_pictures_are_looked_at_as_the_runs_own_samples_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    run = run_small(tmp_path, settings=small_config(num_server_rounds=2) | KINDS[kind])
    monkeypatch.setenv("FEDMOE_HOME", str(tmp_path / "home"))
    personalizer = Personalizer(run)
    for client in range(3):
        own = personalizer.client(client)
        seen = personalizer.images(own.images, own.labels)
        assert seen.experts == own.experts
        assert own.images.shape == seen.images.shape == (len(own.labels), 1, 4, 4)
        np.testing.assert_allclose(seen.scores, own.scores, rtol=1e-3, atol=1e-3)
        np.testing.assert_array_equal(seen.ways["zero_shot"].predictions, own.ways["zero_shot"].predictions)


def test_some_samples_by_lot_are_of_the_clients_own(home: Path) -> None:
    personalizer = Personalizer(home)
    whole, one, again, other = (
        personalizer.client(0, samples, seed) for samples, seed in ((0, 1), (20, 1), (20, 1), (20, 2))
    )
    own = {image.tobytes() for image in whole.images}
    assert len(one.images) == 20
    assert {image.tobytes() for image in one.images} <= own
    np.testing.assert_array_equal(one.images, again.images)
    assert (one.images != other.images).any()


def test_the_bytes_are_those_of_the_ledger(home: Path) -> None:
    personalizer = Personalizer(home)
    ledger, found = personalizer.trained.ledger, personalizer.client(0)
    assert found.bytes == {
        "common": 4 * ledger.common_size,
        "gate": 4 * ledger.gate_size,
        "experts": 4 * 2 * ledger.expert_size,
        "pool": 4 * 3 * ledger.expert_size,
    }


def test_of_the_pool_only_the_held_experts_are_read(home: Path, tmp_path: Path) -> None:
    before = Personalizer(home).client(0)
    copy = copied(home, tmp_path / "spoilt")
    checkpoint = Personalizer(copy).trained.checkpoint
    read = {"average/gate", *(f"average/expert/{i}" for i in before.experts)}
    for name in set(checkpoint.shapes) - read:
        spoil(checkpoint.path, name)
    with mock.patch.object(CheckpointIndex, "read", autospec=True, side_effect=CheckpointIndex.read) as reading:
        after = Personalizer(copy).client(0)
    assert sorted(call.args[1] for call in reading.call_args_list) == sorted(read)
    assert after.experts == before.experts
    np.testing.assert_array_equal(after.probabilities, before.probabilities)
    for name in sorted(read):  # each of these is needed
        one = copied(home, tmp_path / name.replace("/", "-"))
        spoil(one / "checkpoints/round-000003.safetensors", name)
        with pytest.raises(RunFolderError, match=f"'{name}' in .* must be .* finite values.*; hint: "):
            Personalizer(one).client(0)


def copied(run: Path, to: Path) -> Path:
    for name in ("settings.yaml", "environment.json", "checkpoints/round-000003.safetensors"):
        (to / name).parent.mkdir(exist_ok=True, parents=True)
        (to / name).write_bytes((run / name).read_bytes())
    return to


def spoil(path: Path, name: str) -> None:
    """Overwrites an array in the file by values that are no numbers."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    start, end = json.loads(content[8 : 8 + length])[name]["data_offsets"]
    place = 8 + length
    path.write_bytes(content[: place + start] + b"\xff" * (end - start) + content[place + end :])


def test_without_a_checkpoint_nothing_is_served(home: Path, tmp_path: Path) -> None:
    (tmp_path / "settings.yaml").write_bytes((home / "settings.yaml").read_bytes())
    with pytest.raises(RunFolderError, match=r"must have a checkpoint to serve from, got none of 'fedjets'.*hint: "):
        Personalizer(tmp_path)


def test_other_data_than_the_runs_are_refused(home: Path, tmp_path: Path) -> None:
    copy = copied(home, tmp_path / "other")
    environment = json.loads((copy / "environment.json").read_text())
    environment["common_expert"]["fingerprint"] = "0" * 64
    (copy / "environment.json").write_text(json.dumps(environment))
    with pytest.raises(RunFolderError, match=r"serve with the common_expert that they were trained with.*hint: "):
        Personalizer(copy)


def test_a_checkpoint_of_another_strategy_is_refused(home: Path, tmp_path: Path) -> None:
    copy = copied(home, tmp_path / "other")
    settings = (copy / "settings.yaml").read_text()
    (copy / "settings.yaml").write_text(settings.replace("  num: 3\n", "  num: 4\n"))
    # The partition is by a function of the tests that makes a group an expert, so only its hash is in the way.
    (copy / "environment.json").unlink()
    with pytest.raises(RunFolderError, match=r"must hold what fedjets serves by, got none of average/expert/3; hint: "):
        Personalizer(copy)


def test_groups_that_older_features_found_are_not_served(place: Path) -> None:
    kind = KINDS["FedPrints, which brings its own gate"]
    run = run_small(place, settings=small_config(num_server_rounds=2) | kind)
    Personalizer(run)
    for checkpoint in (run / "checkpoints").iterdir():
        content = checkpoint.read_bytes()
        assert content.count(b'"extra/looks"') == 1
        checkpoint.write_bytes(content.replace(b'"extra/looks"', b'"extra/sight"'))
    with pytest.raises(RunFolderError, match=r"must hold what fedprints serves by, got none of extra/looks; hint: "):
        Personalizer(run)


@pytest.mark.parametrize("number", [-1, 3, 12])
def test_a_client_that_is_not_there_is_refused(home: Path, number: int) -> None:
    with pytest.raises(SettingsError, match=rf"--client must be .* 0 to 2, got {number}; hint: 0 is the client 12 of"):
        Personalizer(home).client(number)


def test_a_method_that_is_not_there_is_refused(home: Path) -> None:
    with pytest.raises(SettingsError, match="--method must be a method of the run, got 'fedjet'; did you mean"):
        Personalizer(home, "fedjet")


@pytest.mark.parametrize("change", ["shape", "type", "none", "labels"])
def test_images_of_another_form_are_refused(home: Path, change: str) -> None:
    personalizer = Personalizer(home)
    found = personalizer.client(0)
    images = {"shape": found.images[:, :, :2], "type": found.images / 255, "none": found.images[:0]}
    labels = np.full(len(found.images), 6) if change == "labels" else None
    with pytest.raises(Exception, match=r"images must be uint8|labels must be one an image"):
        personalizer.images(images.get(change, found.images), labels)
