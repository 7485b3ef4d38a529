"""All sides do the same work: as many samples, a model of the same size, the same losses."""

import importlib.util
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, nll_loss

from benchmarks.networks import Network, build_gate, build_network
from benchmarks.sides import SIDES, MissingLibraryError, run_side
from benchmarks.sides.centralised_mixture import CentralisedMixture
from benchmarks.sides.client_data import client_tensors
from benchmarks.sides.fedjets_client import anchor_loss, mixed_loss
from benchmarks.sides.fedmoe_plugins import PooledConvolutions
from benchmarks.workers import SideError, Worker, WorkerOptions, members, workers
from benchmarks.workloads import WORKS, images_and_labels, work_named
from fedmoe.moe.construction import build_expert
from fedmoe.moe.construction import build_gate as build_our_gate
from fedmoe.moe.expert import ExpertSpec
from fedmoe.moe.gate import GateSpec
from fedmoe.moe.mixture import mix
from fedmoe.moe.vectors import load_vector, to_vector

ONE = WorkerOptions(threads=1, warm_up=1)


def after(name, work, count):
    """Returns a side's weights before and after some rounds, and the samples of each round."""
    seen = []

    def serve(rounds):
        seen.append(rounds.weights())
        seen.append([rounds.train() for _ in range(count)])
        seen.append(rounds.weights())

    run_side(name, work, 1, serve)
    before, samples, weights = seen
    return before, weights, samples


def loss_of(work, vector):
    network = build_network(work)
    load_vector(network, vector)
    x, y = (torch.cat(part) for part in zip(*client_tensors(work), strict=True))
    with torch.no_grad():
        return float(cross_entropy(network(x), y))


@pytest.mark.parametrize("name", ["fedmoe", "fedmoe-loop", "loop", "centralised"])
def test_rounds_train_all_samples_and_the_loss_falls(name):
    work = work_named("w1", toy=True)
    before, weights, samples = after(name, work, 5)
    assert samples == [work.samples_per_round] * 5
    assert loss_of(work, weights) < 0.9 * loss_of(work, before)


@pytest.mark.parametrize("work_name", ["fj-mlp", "fj-resnet8-bf16"])
def test_a_mixture_s_rounds_move_gate_and_experts(work_name):
    work = work_named(work_name, toy=True)
    expert = to_vector(build_network(work)).size
    gate = to_vector(build_gate(work, build_network(work).width)).size
    for name in ("fedmoe", "loop"):
        before, weights, samples = after(name, work, 1)
        assert samples == [work.samples_per_round]
        assert weights.size == gate + work.experts * expert
        assert (weights[:gate] != before[:gate]).any()
        assert all((weights[-i * expert :][:expert] != before[-i * expert :][:expert]).any() for i in (1, 2))


APART = {
    "flower": "on Ray: test_throughput.py",
    "pfl": "it is no library of ours: below",
    "pfl-bf16": "it is no library of ours: below",
    "fedmoe-compiled": "compiling takes its minute: test_trainers.py compiles steps, and it is `fedmoe` but for that",
}


@pytest.fixture(scope="module")
def one_home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")  # so that sides do not measure anew what another one has measured


@pytest.mark.parametrize(
    ("work_name", "name"), [(work.name, name) for work in WORKS.values() for name in work.sides if name not in APART]
)
def test_every_side_of_every_work_trains_all_its_samples_and_moves(work_name, name, one_home, monkeypatch):
    monkeypatch.setenv("FEDMOE_HOME", str(one_home))
    work = work_named(work_name, toy=True)
    before, weights, samples = after(name, work, 1)
    gate = to_vector(build_gate(work, build_network(work).width)).size if work.is_mixture else 0
    assert samples == [work.samples_per_round]
    assert weights.size == gate + work.experts * to_vector(build_network(work)).size
    assert np.isfinite(weights).all()
    assert (weights != before).mean() > 0.2


def test_the_floor_of_a_mixture_has_the_round_s_passes_and_learns(monkeypatch):
    work = replace(work_named("fj-mlp", toy=True), clients=7, experts=3)
    passed, forward = [], Network.forward
    floor = CentralisedMixture(work, torch.contiguous_format)

    def counted(network, x):
        passed.append((floor.experts.index(network), len(x)))
        return forward(network, x)

    def right():
        with torch.no_grad():
            ids = [(held, rows) for held, rows in floor.sets() if len(held) == 1]
            return sum(float(cross_entropy(floor.experts[held[0]](floor.x[rows]), floor.y[rows])) for held, rows in ids)

    first = right()
    monkeypatch.setattr(Network, "forward", counted)
    assert [floor.train() for _ in range(20)] == [7 * 12] * 20
    assert sum(count for _, count in passed) == 20 * 12 * (3 + 4 * 2), "anchors one expert, normal clients two"
    assert {expert for expert, _ in passed} == {0, 1, 2}
    assert max(count for _, count in passed) == work.batch_size
    monkeypatch.undo()
    assert right() < 0.9 * first


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("pfl") is None, reason="needs the dependency group benchmarks")
@pytest.mark.parametrize("work_name", [name for name, work in WORKS.items() if not work.is_mixture])
def test_pfl_trains_the_same_samples_and_model(tmp_path, work_name):
    work = work_named(work_name, toy=True)
    with workers(["pfl", "pfl-bf16"], work, ONE, tmp_path) as running:
        for worker in running.values():
            assert worker.go() > 0
            assert worker.ready["samples"] == [work.samples_per_round]
            assert worker.ready["parameters"] == to_vector(build_network(work)).size


def test_a_library_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(SIDES, "pfl", replace(SIDES["pfl"], library="no_such_library"))
    with pytest.raises(MissingLibraryError, match=r"needs the package 'no_such_library'.*uv run --group benchmarks"):
        after("pfl", work_named("w1", toy=True), 1)


@pytest.mark.skipif(importlib.util.find_spec("pfl") is not None, reason="pfl is installed")
def test_a_missing_library_is_told_with_what_to_do(tmp_path):
    with (
        pytest.raises(SideError, match=r"exit status 1.*\n.*needs the package 'pfl'.*uv run --group benchmarks"),
        workers(["pfl"], work_named("w1", toy=True), ONE, tmp_path),
    ):
        pass


def test_a_side_that_dies_is_reported_with_its_last_words_and_nothing_is_left(tmp_path):
    worker = Worker("loop", replace(work_named("w1", toy=True), name="w9"), ONE, tmp_path)
    try:
        with pytest.raises(SideError, match=r"(?s)'loop' died with exit status 2.*invalid choice: 'w9'"):
            worker.wait_ready()
    finally:
        worker.end()
    assert members(worker.process.pid) == []


@pytest.mark.parametrize("name", WORKS)
def test_the_networks_are_fedmoe_s_own(name):
    work = work_named(name)
    spec = ExpertSpec(in_shape=work.shape, num_classes=work.classes)
    ours = {
        "perceptron": lambda: build_expert("mlp", spec, 0),
        "resnet8": lambda: build_expert("resnet8", spec, 0),
        "cnn": lambda: PooledConvolutions(spec),
    }[work.network]()
    theirs = build_network(work)
    assert [p.shape for p in theirs.parameters()] == [p.shape for p in ours.parameters()]
    load_vector(theirs, to_vector(ours))
    x = torch.randn(3, *work.shape)
    torch.testing.assert_close(theirs(x), ours(x))
    torch.testing.assert_close(theirs.embed(x), ours.embed(x))
    assert theirs.width == ours.embedding_dim


def test_the_gate_and_the_losses_are_fedmoe_s_own():
    work = work_named("fj-mlp")
    spec = GateSpec(in_features=7, num_experts=work.experts, hidden=work.gate_hidden)
    ours, theirs = build_our_gate("mlp", spec, 0), build_gate(work, 7)
    load_vector(theirs, to_vector(ours))
    embedding = torch.randn(6, 7)
    scores = theirs(embedding)
    torch.testing.assert_close(scores, ours.scores(embedding))
    logits, y, held = torch.randn(2, 6, work.classes), torch.arange(6), [3, 1]
    mixed = mix(logits, torch.softmax(scores[:, held], dim=1))
    torch.testing.assert_close(mixed_loss(scores, logits, y, held), nll_loss(mixed, y))
    own = cross_entropy(logits[0], y) + cross_entropy(scores, torch.full((6,), 3))
    torch.testing.assert_close(anchor_loss(scores, logits, y, [3]), own)


def test_a_work_s_own_sides_can_do_it_and_its_samples_are_always_the_same():
    for work in WORKS.values():
        assert all(SIDES[name].fits(work) for name in work.sides)
        few, many = (images_and_labels(replace(work, samples=1), count)[0] for count in (5, 9))
        assert (few == many[:5]).all()
    with pytest.raises(ValueError, match="a work must be one of w1, w2"):
        work_named("w3")
