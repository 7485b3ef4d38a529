"""The laws of the whole machinery, in process: design.md's 1, 3, 4, 5 and 6."""

import itertools
import json
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from flwr.app import Message
from torch import nn

import fedmoe.flower.contract as contract
import fedmoe.flower.recorder as recorder
from fedmoe.data.population import build_population
from fedmoe.flower.local_grid import LocalGrid
from fedmoe.recording.checkpoints import load_checkpoint
from fedmoe.seeding import derive_seed, numpy_stream, torch_stream
from fedmoe.settings import from_flat
from tests.small import (
    NUM_CLASSES,
    BackwardsGrid,
    blobs,
    newest_bytes,
    newest_state,
    rounds_of,
    run_small,
    small_config,
)

PIXELS = 16


# ---- law 1: one expert and no gate is FedAvg -----------------------------------------------------


def fedavg_by_hand(config: dict) -> np.ndarray:
    """Federated averaging as a textbook has it: plain torch, one client after another."""
    settings = from_flat(config)
    data, train, scale = blobs(None), settings.train, 2.0**32 if settings.deterministic else 1.0
    who = build_population(data, settings)
    public = data.x_NCHW[np.sort(who.public_ids)].astype(np.float64)
    mean, std = np.float32(public.mean()), np.float32(max(public.std(), 1.0))
    torch.manual_seed(derive_seed(settings.seed, "expert", 0))
    net = nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, settings.experts.width), nn.ReLU(), nn.Linear(5, NUM_CLASSES))
    weights = nn.utils.parameters_to_vector(net.parameters()).detach()
    for r in range(1, settings.num_server_rounds + 1):
        lots = numpy_stream(settings.seed, "round", r, "server")
        total, examples = 0, 0
        for client in sorted(lots.choice(who.num_training, settings.clients.per_round, replace=False).tolist()):
            with torch.no_grad():  # copied, not viewed: the last bit of a matrix product depends on memory's alignment
                for own, part in zip(
                    net.parameters(), weights.split([p.numel() for p in net.parameters()]), strict=True
                ):
                    own.copy_(part.view_as(own))
            sgd = torch.optim.SGD(net.parameters(), train.learning_rate, train.momentum, 0, train.weight_decay)
            x = (torch.tensor(data.x_NCHW[who.shards[client]]).float() - mean) / std
            y = torch.tensor(data.y_N[who.shards[client]])
            shuffles = torch_stream(settings.seed, "train", "round", r, "client", client)
            for _ in range(train.epochs):
                for rows in torch.randperm(len(y), generator=shuffles).split(train.batch_size):
                    sgd.zero_grad()
                    nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
                    sgd.step()
            term = nn.utils.parameters_to_vector(net.parameters()).detach().numpy().astype(np.float64) * len(y)
            total = total + (np.rint(term * scale).astype(np.int64) if settings.deterministic else term)
            examples += len(y)
        weights = torch.from_numpy((total.astype(np.float64) / (examples * scale)).astype(np.float32))
    return weights.numpy()


@pytest.mark.parametrize(("seed", "deterministic"), [(0, True), (1, True), (2, True), (0, False), (1, False)])
def test_one_expert_without_a_gate_is_fedavg_bit_for_bit(tmp_path: Path, seed: int, deterministic: bool) -> None:
    config = small_config(
        seed=seed,
        deterministic=deterministic,
        num_server_rounds=4,
        strategy__name="fedavg",
        strategy__fedavg__init="random",
        experts__num=1,
        experts__top_k=1,
        clients__anchors_per_round=0,
        train__epochs=2,
        train__weight_decay=0.01,
    )
    settings = from_flat(config)
    sizes = [len(shard) for shard in build_population(blobs(None), settings).shards[: settings.clients.num]]
    assert len({size % settings.train.batch_size for size in sizes}) > 3, "the clients must be ragged"
    # Sums of floats depend on their order: without `deterministic`, one node adds as the textbook does.
    run = run_small(tmp_path, nodes=3 if deterministic else 1, settings=config)
    with torch.random.fork_rng(devices=[]):
        expected = fedavg_by_hand(config)
    got = newest_state(run)
    assert got.gate is None
    assert len(got.experts) == 1
    assert got.experts[0].tobytes() == expected.tobytes()
    stacked = newest_state(run_small(tmp_path / "stacked", nodes=2, settings=config | {"train.trainer": "stacked"}))
    np.testing.assert_allclose(stacked.experts[0], expected, rtol=0, atol=1e-5)


# ---- law 3: same seed, same bytes, on any number of nodes ----------------------------------------

KINDS = {
    "scaffold and ditto": {"strategy.name": "scaffold", "evaluate.baselines": "ditto"},
    "scaffold and ditto, stacked": {
        "strategy.name": "scaffold",
        "evaluate.baselines": "ditto",
        "train.trainer": "stacked",
        "train.stack": 2,
    },
    "fedjets": {"evaluate.baselines": "fedavg", "evaluate.ema": 0.5},
    "fedjets, stacked": {"evaluate.baselines": "fedavg", "train.trainer": "stacked", "train.epochs": 2},
    "fedjets, chosen": {"train.trainer": "auto"},
    "AdamW, stacked": {"train.trainer": "stacked", "train.stack": 3, "train.optimiser": "adamw"},
    "normalised gradients, stacked": {"train.trainer": "stacked", "train.stack": 3, "train.optimiser": "normalised"},
    "random gate, CNN": {"gate.name": "random", "experts.model": "cnn", "experts.width": 2, "num-server-rounds": 2},
    "random gate, CNN, stacked": {
        "gate.name": "random",
        "experts.model": "cnn",
        "experts.width": 2,
        "num-server-rounds": 2,
        "train.trainer": "stacked",
        "train.augmentation": "crop-flip",
    },
    "BatchNorm, by examples": {
        "experts.model": "resnet8",
        "experts.width": 2,
        "experts.norm": "batch",
        "strategy.fedjets.weighting": "examples",
        "num-server-rounds": 2,
        "clients.samples": 24,
        "train.batch-size": 24,  # one batch: BatchNorm cannot train on one sample of one pixel
    },
}


KINDS["BatchNorm, stacked"] = KINDS["BatchNorm, by examples"] | {"train.trainer": "stacked"}


@pytest.mark.parametrize(
    ("seed", "kind"),
    [
        (0, "fedjets"),
        (7, "fedjets"),
        (0, "fedjets, stacked"),
        (5, "fedjets, stacked"),
        (3, "fedjets, chosen"),
        (4, "AdamW, stacked"),
        (1, "random gate, CNN"),
        (1, "random gate, CNN, stacked"),
        (2, "BatchNorm, by examples"),
        (2, "BatchNorm, stacked"),
        (6, "scaffold and ditto"),
        (6, "scaffold and ditto, stacked"),
    ],
)
def test_the_number_of_nodes_changes_no_byte(tmp_path: Path, seed: int, kind: str) -> None:
    config = small_config(seed=seed) | KINDS[kind]
    runs, sums = [], []
    for nodes, grid in ((1, LocalGrid), (2, LocalGrid), (4, BackwardsGrid)):
        with mock.patch.object(contract, "merge_sums", wraps=contract.merge_sums) as merge:
            runs.append(
                run_small(tmp_path / str(nodes), nodes=nodes, grid=grid, settings=config, home=tmp_path / "home")
            )
        # The sums themselves, before they are rounded to float32 and differences are lost.
        arrays = [call.args[1].arrays for call in merge.call_args_list]
        sums.append([{name: array.tobytes() for name, array in table.items()} for table in arrays])
    one, *others = runs
    assert sums[0] == sums[1] == sums[2]
    baseline = config.get("evaluate.baselines")
    for part in [".", *([f"baselines/{baseline}"] if baseline else [])]:
        for other in others:
            assert all_kept(other / part) == all_kept(one / part)
            assert newest_bytes(other / part) == newest_bytes(one / part)
            assert rounds_of(other / part) == rounds_of(one / part)
    assert all(line["failures"] == [] for line in rounds_of(one))
    assert all((other / "clients.csv").read_bytes() == (one / "clients.csv").read_bytes() for other in others)


@pytest.mark.parametrize("kind", ["fedjets", "fedjets, stacked", "random gate, CNN"])
def test_nodes_at_work_at_the_same_time_change_no_byte(tmp_path: Path, kind: str) -> None:
    class Threads(LocalGrid):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, at_once=4)

        def _answer(self, message: Message) -> Message:
            seen.add(threading.get_ident())
            return super()._answer(message)

    config, seen = small_config(seed=3) | KINDS[kind], set[int]()
    one = run_small(tmp_path / "one", nodes=1, settings=config, home=tmp_path / "home")
    four = run_small(tmp_path / "four", nodes=4, grid=Threads, settings=config, home=tmp_path / "home")
    assert 1 < len(seen) <= 4
    assert threading.get_ident() not in seen
    assert newest_bytes(four) == newest_bytes(one)
    assert rounds_of(four) == rounds_of(one)


def test_a_resumed_run_keeps_the_trainer_that_it_began_with(tmp_path: Path) -> None:
    config = small_config(seed=2, train__trainer="auto")
    whole = run_small(tmp_path / "whole", settings=config, home=tmp_path / "home")
    begun = json.loads((whole / "trainer.json").read_text())
    other = {"loop": "stacked", "stacked": "loop"}[begun["kind"]]
    with pytest.raises(Killed), kill_in_training("fedjets", 2):
        run_small(tmp_path, settings=config, home=tmp_path / "home")
    (killed,) = (tmp_path / "runs").iterdir()
    (kept,) = (tmp_path / "home" / "cache" / "trainers").iterdir()
    kept.write_text(json.dumps(begun | {"kind": other}))
    run = run_small(tmp_path, settings=config | {"resume": str(killed)}, home=tmp_path / "home")
    assert json.loads((run / "trainer.json").read_text()) == begun | {"known": True}
    assert newest_bytes(run) == newest_bytes(whole)


def test_another_seed_gives_other_bytes(tmp_path: Path) -> None:
    runs = [
        run_small(tmp_path / name, settings=small_config(seed=seed, num_server_rounds=1))
        for name, seed in [("a", 3), ("b", 3), ("c", 4)]
    ]
    bytes_of = [newest_bytes(run) for run in runs]
    lines = [rounds_of(run) for run in runs]
    assert bytes_of[0] == bytes_of[1]
    assert lines[0] == lines[1]
    assert bytes_of[0] != bytes_of[2]
    assert lines[0] != lines[2]


# ---- law 4: resumed is uninterrupted -------------------------------------------------------------


class Killed(BaseException):
    """As a kill: no `except Exception` stops it."""


def kill_before_checkpoint(name: str, round_num: int):
    """Kills the run between a round's line and its checkpoint."""
    real = recorder.save_checkpoint

    def save(folder: Path, number: int, arrays: dict, metadata: dict) -> Path:
        if (metadata["strategy"], number) == (name, round_num):
            raise Killed
        return real(folder, number, arrays, metadata)

    return mock.patch.object(recorder, "save_checkpoint", save)


def kill_in_training(name: str, round_num: int):
    """Kills the run while the clients of a round train: the nodes have answered, nothing is written."""
    real = LocalGrid.send_and_receive

    def send(self: LocalGrid, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        kept = list(messages)
        train = [message for message in kept if message.metadata.message_type == "train"]
        if train and train[0].metadata.group_id == str(round_num) and gated(train[0]) == (name == "fedjets"):
            real(self, kept, timeout=timeout)
            raise Killed
        return real(self, kept, timeout=timeout)

    return mock.patch.object(LocalGrid, "send_and_receive", send)


def gated(message: Message) -> bool:
    return "gate" in message.content.array_records["arrays"]


RESUMED = {
    "num-server-rounds": 4,
    "evaluate.baselines": "fedavg",
    "evaluate.ema": 0.5,
    "seed": 5,
    "train.trainer": "auto",
}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A whole run and the caches that it leaves."""
    home = tmp_path_factory.mktemp("home")
    run_small(tmp_path_factory.mktemp("warm"), settings=small_config() | RESUMED | {"num-server-rounds": 1}, home=home)
    return run_small(tmp_path_factory.mktemp("whole"), settings=small_config() | RESUMED, home=home), home


def summary_of(run: Path) -> dict:
    table = json.loads((run / "summary.json").read_text())
    return {key: value for key, value in table.items() if key not in ("seconds", "run_folder")}


KILLS = {
    "in the first round": [kill_in_training("fedjets", 1)],
    "before the first checkpoint": [kill_before_checkpoint("fedjets", 1)],
    "in a later round": [kill_in_training("fedjets", 3)],
    "between line and checkpoint": [kill_before_checkpoint("fedjets", 3)],
    "in a baseline's first round": [kill_in_training("fedavg", 1)],
    "in the middle of a baseline": [kill_before_checkpoint("fedavg", 3)],
    "three times": [
        kill_before_checkpoint("fedjets", 2),
        kill_in_training("fedjets", 4),
        kill_before_checkpoint("fedavg", 2),
    ],
}


@pytest.mark.parametrize("kind", KILLS)
def test_a_resumed_run_ends_as_if_it_had_never_been_killed(
    tmp_path: Path, uninterrupted: tuple[Path, Path], kind: str
) -> None:
    whole, home = uninterrupted
    config = small_config() | RESUMED
    for kill in KILLS[kind]:
        with pytest.raises(Killed), kill:
            run_small(tmp_path, settings=config, home=home)
        (killed,) = (tmp_path / "runs").iterdir()
        assert not (killed / "summary.json").exists()
        config["resume"] = str(killed)
    run = run_small(tmp_path, settings=config, home=home)
    assert run == killed
    for part in (run, run / "baselines" / "fedavg"):
        other = whole / part.relative_to(run)
        assert newest_bytes(part) == newest_bytes(other)
        assert rounds_of(part) == rounds_of(other)
    assert summary_of(run) == summary_of(whole)
    assert (run / "clients.csv").read_bytes() == (whole / "clients.csv").read_bytes()


@pytest.mark.parametrize(("name", "killed_in"), [("scaffold", 3), ("ditto", 2), ("ditto", 4)])
@pytest.mark.parametrize("every", [1, 3])
def test_what_clients_keep_goes_back_to_the_checkpoint_with_the_run(
    tmp_path: Path, name: str, killed_in: int, every: int
) -> None:
    settings = {"num-server-rounds": 5, "strategy.name": "scaffold", "evaluate.baselines": "ditto"}
    config = small_config() | settings | {"checkpoint-every": every, "clients.per-round": 8}
    whole = run_small(tmp_path / "whole", settings=config, home=tmp_path / "home")
    with pytest.raises(Killed), kill_before_line(name, killed_in):
        run_small(tmp_path, settings=config, home=tmp_path / "home")
    (killed,) = (tmp_path / "runs").iterdir()
    run = run_small(tmp_path, settings=config | {"resume": str(killed)}, home=tmp_path / "home")
    assert newest_bytes(run) == newest_bytes(whole)
    baseline = Path("baselines", "ditto")
    assert newest_bytes(run / baseline) == newest_bytes(whole / baseline)
    for method in (Path(), baseline):
        kept = [newest_kept(folder / method) for folder in (run, whole)]
        assert len(kept[0]) > 8
        assert kept[0] == kept[1]


def all_kept(method: Path) -> dict[str, bytes]:
    """Returns all that clients have kept, byte for byte."""
    return {str(file.relative_to(method)): file.read_bytes() for file in method.glob("client-states/*/*")}


def newest_kept(method: Path) -> dict[str, bytes]:
    """Returns what each client has kept last, byte for byte."""
    clients = (method / "client-states").iterdir()
    return {own.name: max(own.iterdir(), key=lambda path: int(path.stem)).read_bytes() for own in clients}


def kill_before_line(name: str, round_num: int):
    """Kills the run after a round's clients have been trained, and have kept what they keep."""
    real = recorder.append_round

    def append(folder: Path, line: dict) -> None:
        if (line["strategy"], line["round"]) == (name, round_num):
            raise Killed
        real(folder, line)

    return mock.patch.object(recorder, "append_round", append)


RARELY_KEPT = {
    "before any checkpoint": ([kill_in_training("fedjets", 3)], 0),
    "between line and checkpoint": ([kill_before_checkpoint("fedjets", 3)], 0),
    "after the only checkpoint but the last": ([kill_in_training("fedjets", 4)], 3),
    "between the last line and its checkpoint": ([kill_before_checkpoint("fedjets", 4)], 3),
    "in a baseline": ([kill_in_training("fedavg", 3), kill_before_checkpoint("fedavg", 4)], 4),
}


@pytest.mark.parametrize("kind", RARELY_KEPT)
def test_a_run_with_few_checkpoints_goes_on_from_the_newest_and_ends_as_one_with_all(
    tmp_path: Path, uninterrupted: tuple[Path, Path], kind: str
) -> None:
    whole, home = uninterrupted
    kills, newest = RARELY_KEPT[kind]
    config = small_config() | RESUMED | {"checkpoint-every": 3}
    for kill in kills:
        with pytest.raises(Killed), kill:
            run_small(tmp_path, settings=config, home=home)
        (killed,) = (tmp_path / "runs").iterdir()
        kept = sorted(path.name for path in killed.glob("checkpoints/*"))
        assert kept == [f"round-{number:06d}.safetensors" for number in (3, 4) if number <= newest]
        config["resume"] = str(killed)
    run = run_small(tmp_path, settings=config, home=home)
    for part in (run, run / "baselines" / "fedavg"):
        other = whole / part.relative_to(run)
        assert newest_bytes(part) == newest_bytes(other)
        assert rounds_of(part) == rounds_of(other)
        assert [path.stem[-1] for path in sorted((part / "checkpoints").iterdir())] == ["3", "4"]
    assert summary_of(run) == summary_of(whole)
    assert (run / "clients.csv").read_bytes() == (whole / "clients.csv").read_bytes()


def test_a_torn_last_line_is_cut_off_and_written_again(tmp_path: Path, uninterrupted: tuple[Path, Path]) -> None:
    whole, home = uninterrupted
    config = small_config() | RESUMED
    with pytest.raises(Killed), kill_in_training("fedjets", 3):
        run_small(tmp_path, settings=config, home=home)
    (killed,) = (tmp_path / "runs").iterdir()
    with (killed / "rounds.jsonl").open("a") as file:
        file.write('{"round": 3, "strategy": "fedj')
    run = run_small(tmp_path, settings=config | {"resume": str(killed)}, home=home)
    assert newest_bytes(run) == newest_bytes(whole)
    assert rounds_of(run) == rounds_of(whole)


def test_a_whole_run_that_is_resumed_trains_nothing(uninterrupted: tuple[Path, Path], tmp_path: Path) -> None:
    whole, home = uninterrupted
    before = newest_bytes(whole), rounds_of(whole), summary_of(whole)
    with mock.patch("fedmoe.flower.node.Node.train", side_effect=AssertionError("trained")):
        run_small(tmp_path, settings=small_config() | RESUMED | {"resume": str(whole)}, home=home)
    assert (newest_bytes(whole), rounds_of(whole), summary_of(whole)) == before


# ---- law 5: the ledger equals the closed formula -------------------------------------------------


@pytest.mark.parametrize(
    ("experts", "top_k", "per_round", "anchors", "hidden", "width"),
    [(3, 2, 5, 2, 4, 5), (2, 1, 4, 0, 3, 2), (4, 4, 6, 4, 2, 3), (6, 3, 3, 3, 1, 4)],
)
def test_the_ledger_of_a_run_equals_the_closed_formula(
    tmp_path: Path, experts: int, top_k: int, per_round: int, anchors: int, hidden: int, width: int
) -> None:
    changes = {
        "num_server_rounds": 2,
        "experts__num": experts,
        "experts__top_k": top_k,
        "experts__width": width,
        "clients__per_round": per_round,
        "clients__anchors_per_round": anchors,
        "gate__hidden": hidden,
        "evaluate__baselines": "fedavg",
    }
    run = run_small(tmp_path, settings=small_config(**changes))
    # 2 N P_r + 2 (N_c k + N_a) P_e + N_c k eps in values of 4 bytes (arXiv 2306.08586, appendix K): an anchor counts
    # as the one expert that it gets
    p_e = PIXELS * width + width + width * NUM_CLASSES + NUM_CLASSES
    p_r = width * hidden + hidden + hidden * experts + experts
    n_c, n_a = per_round - anchors, anchors
    expected = 4 * (2 * (n_c + n_a) * p_r + 2 * (n_c * top_k + n_a) * p_e + n_c * top_k)
    for line in rounds_of(run):
        assert line["bytes"]["down"] + line["bytes"]["up"] == expected
        assert line["bytes"]["down"] == 4 * ((n_c + n_a) * p_r + (n_c * top_k + n_a) * p_e)
        assert line["bytes"]["by_expert"] == [8 * p_e * holders for holders in line["load"]]
        assert sum(line["load"]) == n_c * top_k + n_a
    for line in rounds_of(run / "baselines" / "fedavg"):
        assert line["bytes"]["down"] == line["bytes"]["up"] == 4 * per_round * p_e
    told = json.loads((run / "summary.json").read_text())["bytes"]
    assert told["down"] + told["up"] == 2 * expected
    assert told["once"] == 12 * 4 * p_e  # the common expert, of the experts' own backbone, to every training client
    assert told["by_method"]["fedavg"]["once"] == 0


# ---- law 6: who holds what -----------------------------------------------------------------------


@pytest.mark.parametrize("gate", ["mlp", "random", "uniform", "oracle", "frozen"])
@pytest.mark.parametrize(("experts", "top_k"), [(3, 2), (6, 1)])
def test_normal_clients_hold_k_experts_and_anchors_their_own(
    tmp_path: Path, gate: str, experts: int, top_k: int
) -> None:
    changes = {"experts__num": experts, "experts__top_k": top_k, "gate__name": gate, "clients__per_round": 4}
    config = small_config(num_server_rounds=2, **changes)
    anchors = build_population(blobs(None), from_flat(config)).anchors
    run = run_small(tmp_path, settings=config)
    for line in rounds_of(run):
        assert sorted(map(int, line["assignment"])) == sorted(line["clients"])
        assert sum(client in anchors for client in line["clients"]) == 2
        assert line["completed"] == 4
        for client, held in line["assignment"].items():
            if int(client) in anchors:
                assert held == [anchors[int(client)]]
                assert client not in line["rankings"]
            else:
                scores = line["rankings"][client]
                assert len(held) == len(set(held)) == top_k
                assert min(scores[i] for i in held) >= max([s for i, s in enumerate(scores) if i not in held])
    for client in line["evaluate"]["clients"]:
        assert len(set(client["experts"])) == top_k


@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize("seed", [0, 1])
def test_an_expert_that_nobody_held_keeps_its_bytes(tmp_path: Path, seed: int, deterministic: bool) -> None:
    changes = {"experts__num": 6, "experts__top_k": 1, "clients__per_round": 3, "deterministic": deterministic}
    run = run_small(tmp_path, settings=small_config(seed=seed, num_server_rounds=2, **changes))
    before, after = (load_checkpoint(path).arrays for path in sorted((run / "checkpoints").iterdir()))
    load = rounds_of(run)[1]["load"]
    assert 0 in load
    for expert_id, holders in enumerate(load):
        name = f"expert/{expert_id}"
        assert (after[name].tobytes() == before[name].tobytes()) == (holders == 0)
    assert after["gate"].tobytes() != before["gate"].tobytes()


# ---- what stays as it was ------------------------------------------------------------------------


@pytest.mark.parametrize(("gate", "moves"), [("frozen", False), ("mlp", True)])
def test_a_frozen_gate_never_moves(tmp_path: Path, gate: str, moves: bool) -> None:
    run = run_small(tmp_path, settings=small_config(num_server_rounds=2, gate__name=gate, train__weight_decay=0.1))
    early, late = (load_checkpoint(path).arrays["gate"] for path in sorted((run / "checkpoints").iterdir()))
    assert late.size > 0
    assert (early.tobytes() != late.tobytes()) == moves


def test_embeddings_are_computed_once(tmp_path: Path) -> None:
    config = small_config(num_server_rounds=1)
    first = run_small(tmp_path / "a", settings=config, home=tmp_path / "home")
    with mock.patch("fedmoe.flower.preparation.forward_all", side_effect=AssertionError("computed again")):
        second = run_small(tmp_path / "b", settings=config | {"seed": 0}, home=tmp_path / "home")
    told = [json.loads((run / "summary.json").read_text()) for run in (first, second)]
    assert [table["embeddings_computed"] for table in told] == [720, 0]
    assert [table["common_expert"]["cached"] for table in told] == [False, True]
    assert newest_bytes(first) == newest_bytes(second)


@pytest.mark.parametrize("decay", [0.25, 0.9])
def test_the_moving_average_is_that_of_the_states(tmp_path: Path, decay: float) -> None:
    with mock.patch("fedmoe.recording.checkpoints.KEPT", 9):
        run = run_small(tmp_path, settings=small_config(evaluate__ema=decay))
        plain = run_small(tmp_path / "plain", settings=small_config(), home=tmp_path / "home")
    states, alone = (
        [load_checkpoint(path).arrays for path in sorted((folder / "checkpoints").iterdir())] for folder in (run, plain)
    )
    assert len(states) == 3
    for name in ("gate", "expert/0", "expert/1", "expert/2"):
        assert states[0][f"average/{name}"].tobytes() == states[0][name].tobytes()
        for before, after in itertools.pairwise(states):
            old, new = before[f"average/{name}"].astype(np.float64), after[name].astype(np.float64)
            by_hand = decay * old + (1 - decay) * new
            np.testing.assert_allclose(after[f"average/{name}"], by_hand, rtol=1e-6, atol=1e-9)
        for with_average, without in zip(states, alone, strict=True):
            assert with_average[name].tobytes() == without[name].tobytes(), "the average must not feed back"
    assert rounds_of(run)[-1]["evaluate"] != rounds_of(plain)[-1]["evaluate"], "the average is what gets evaluated"
