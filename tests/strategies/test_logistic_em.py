"""Federated expectation maximisation by name: the run is the pooled ascent, step by step."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from fedmoe.data.population import build_population
from fedmoe.errors import SettingsError
from fedmoe.federation.expectation_maximisation import Ascent
from fedmoe.federation.job import ClientJob, Question, Term
from fedmoe.federation.logistic_mixture import LogisticMixture, MixtureSums, mixture_sums
from fedmoe.federation.packed_sums import PackedSums, SumsShape, packed
from fedmoe.flower.local_grid import LocalGrid
from fedmoe.flower.methods import methods_of
from fedmoe.moe.construction import build_expert, build_gate
from fedmoe.moe.expert import ExpertSpec
from fedmoe.moe.gate import GateSpec
from fedmoe.moe.vectors import load_vector, to_vector
from fedmoe.seeding import derive_seed
from fedmoe.settings import from_flat
from fedmoe.training.sample_store import channel_statistics
from fedmoe.training.statistics.logistic_mixture import LogisticMixtureSums
from tests.small import NUM_CLASSES, blobs, newest_state, rounds_of, run_small, small_config

LINEAR = {
    "strategy.name": "logistic_em",
    "experts.model": "linear",
    "experts.num": 2,
    "clients.anchors-per-round": 0,
    "train.trainer": "auto",
    "num-server-rounds": 6,
}
PIXELS = 16


def mixtures(seed: int, experts: int = 3, classes: int = 4, features: int = 3, gate: int = 2) -> LogisticMixture:
    rng = np.random.default_rng(seed)
    blank = LogisticMixture(np.zeros((experts, gate)), np.zeros((experts, classes, features)))
    return blank.moved(rng.normal(size=blank.free_P().size))


def sums_at(point: LogisticMixture, seed: int, count: int, missing: bool) -> MixtureSums:
    rng = np.random.default_rng([seed, count])
    features, gate_features = rng.normal(size=(count, 3)), rng.normal(size=(count, 2))
    return mixture_sums(point, features, gate_features, rng.integers(0, 4, count), missing=missing)


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_packed_sums_of_clients_mean_up_to_those_of_all_samples(seed: int, missing: bool) -> None:
    point = mixtures(seed)
    parts = [sums_at(point, seed, count, missing) for count in (7, 30, 1)]
    whole = parts[0] + parts[1] + parts[2]
    mean = sum(own.weight * packed(own) for own in parts) / whole.weight
    shape = SumsShape.of(3, 4, 3, 2, missing)
    assert mean.shape == (shape.numbers,)
    found = PackedSums(mean, shape, point.free_P())
    assert found.log_likelihood == pytest.approx(whole.log_likelihood / whole.weight)
    np.testing.assert_allclose(found.gradient_P(), whole.gradient_P() / whole.weight, atol=1e-12)
    np.testing.assert_allclose(found.complete_PP(), whole.complete_PP() / whole.weight, atol=1e-12)
    assert (found.missing_PP is None) == (not missing)
    if missing:
        np.testing.assert_allclose(found.missing_PP, whole.missing_PP / whole.weight, atol=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_the_ridge_is_a_term_of_what_is_raised(seed: int) -> None:
    point, shape = mixtures(seed), SumsShape.of(3, 4, 3, 2, False)
    found = PackedSums(packed(sums_at(point, seed, 40, False)), shape, point.free_P())
    ridged = replace(found, ridge=0.3)
    here_P = point.free_P()
    assert ridged.log_likelihood == pytest.approx(found.log_likelihood - 0.15 * (here_P**2).sum())
    np.testing.assert_allclose(ridged.gradient_P(), found.gradient_P() - 0.3 * here_P)
    np.testing.assert_allclose(ridged.complete_PP(), found.complete_PP() + 0.3 * np.eye(len(here_P)))


def by_hand(config: dict, rounds: int) -> list[Ascent]:
    """Returns where the ascent on the pooled samples of all training clients stands after each round."""
    settings = from_flat(config)
    data = blobs(None)
    who = build_population(data, settings)
    mean, std = (own.view(-1, 1, 1) for own in channel_statistics(data.x_NCHW, who.public_ids))
    ids = np.concatenate([who.shards[client] for client in who.training])
    x = ((torch.from_numpy(data.x_NCHW[ids]).float() - mean) / std).flatten(1).double().numpy()
    features = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    missing, ridge = config.get("strategy.logistic_em.missing", False), config.get("strategy.logistic_em.ridge", 0.001)
    ascent = Ascent(start_of(config), bound=config.get("strategy.logistic_em.bound", 30.0))
    shape = SumsShape.of(len(ascent.point.gate_MG), NUM_CLASSES, PIXELS + 1, PIXELS + 1, missing)
    found = []
    for _ in range(rounds):
        asked = ascent.proposal()
        sums = mixture_sums(asked, features, features, data.y_N[ids], missing=missing)
        ascent = ascent.heard(asked, PackedSums(packed(sums), shape, asked.free_P(), ridge))
        found.append(ascent)
    return found


def mixture_of(gate: np.ndarray, experts: list[np.ndarray] | tuple[np.ndarray, ...]) -> LogisticMixture:
    """Returns what the vectors of a state say, by the modules that they are loaded into."""
    spec = ExpertSpec(in_shape=(1, 4, 4), num_classes=NUM_CLASSES)
    expert = build_expert("linear", spec, 0)
    router = build_gate("softmax", GateSpec(in_features=PIXELS, num_experts=len(experts), hidden=4), 0)
    load_vector(router, gate)
    rows = [torch.cat([router.linear.weight, router.linear.bias[:, None]], 1).detach().double().numpy()]
    for vector in experts:
        load_vector(expert, vector)
        rows.append(torch.cat([expert.head.weight, expert.head.bias[:, None]], 1).detach().double().numpy())
    rows = [own - own[-1] for own in rows]
    return LogisticMixture(rows[0], np.stack(rows[1:]))


def start_of(config: dict) -> LogisticMixture:
    seed, num = config["seed"], config["experts.num"]
    spec = ExpertSpec(in_shape=(1, 4, 4), num_classes=NUM_CLASSES)
    experts = [to_vector(build_expert("linear", spec, derive_seed(seed, "expert", i))) for i in range(num)]
    gate = build_gate("softmax", GateSpec(in_features=PIXELS, num_experts=num, hidden=4), derive_seed(seed, "gate"))
    return mixture_of(to_vector(gate), experts)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("missing", [False, True])
def test_a_run_is_the_pooled_ascent_whatever_the_nodes(tmp_path: Path, seed: int, missing: bool) -> None:
    config = small_config(seed=seed) | LINEAR | {"strategy.logistic_em.missing": missing}
    run = run_small(tmp_path, nodes=3, settings=config)
    expected = by_hand(config, 6)
    state = newest_state(run)
    got = mixture_of(state.gate, state.experts)
    np.testing.assert_allclose(got.free_P(), expected[-1].point.free_P(), rtol=0, atol=2e-3)
    start = start_of(config)
    assert np.abs(expected[-1].point.free_P() - start.free_P()).max() > 0.1
    # What clients tell in a round is the loss at the point that they were asked about.
    lines = rounds_of(run)
    assert [len(line["clients"]) for line in lines] == [12] * 6
    assert [line["completed"] for line in lines] == [12] * 6
    heard = [own.sums.log_likelihood for own in expected]
    assert all(later >= before for before, later in pairwise(heard))
    assert heard[-1] > heard[0] + 0.3
    first = lines[0]["train"]["loss"]
    assert first == pytest.approx(-expected[0].sums.numbers_S[0], abs=1e-4)


def test_the_ledger_counts_the_sums_that_are_sent(tmp_path: Path) -> None:
    lines = rounds_of(run_small(tmp_path, settings=small_config() | LINEAR))
    expert, gate = NUM_CLASSES * (PIXELS + 1), 2 * (PIXELS + 1)
    blocks = ((PIXELS + 1), *[(NUM_CLASSES - 1) * (PIXELS + 1)] * 2)
    numbers = 1 + sum(blocks) + sum(size * (size + 1) // 2 for size in blocks)
    for line in lines:
        assert line["bytes"]["up"] == 12 * 4 * numbers
        assert line["bytes"]["down"] == 12 * 4 * (gate + 2 * expert)
        assert line["bytes"]["by_expert"] == [12 * 4 * expert] * 2


class Killed(Exception):
    """The process is gone."""


class DyingGrid(LocalGrid):
    """A grid that dies as the fourth round's work is handed out."""

    def send_and_receive(self, messages, *, timeout=None):
        handed = list(messages)
        if any(own.metadata.group_id == "4" and own.metadata.message_type == "train" for own in handed):
            raise Killed
        return super().send_and_receive(handed, timeout=timeout)


def test_a_resumed_ascent_goes_on_where_it_stood(tmp_path: Path) -> None:
    config = small_config() | LINEAR
    whole = newest_state(run_small(tmp_path / "whole", settings=config))
    with pytest.raises(Killed):
        run_small(tmp_path, settings=config, grid=DyingGrid)
    (killed,) = (tmp_path / "runs").iterdir()
    resumed = newest_state(run_small(tmp_path, settings=config | {"resume": str(killed)}))
    assert {n: a.tobytes() for n, a in resumed.to_arrays().items()} == {
        n: a.tobytes() for n, a in whole.to_arrays().items()
    }


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_round_in_which_some_clients_fail_holds_nothing_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    call = LogisticMixtureSums.__call__

    def failing(self, experts, gate, samples):
        if failing.count in (37, 38):  # two clients in the fourth round
            failing.count += 1
            raise RuntimeError("lost")
        failing.count += 1
        return call(self, experts, gate, samples)

    failing.count = 0
    monkeypatch.setattr(LogisticMixtureSums, "__call__", failing)
    config = small_config(seed=seed) | LINEAR | {"num-server-rounds": 10}
    lines = rounds_of(run_small(tmp_path, nodes=1, settings=config))
    assert [line["completed"] for line in lines] == [12, 12, 12, 10, *[12] * 6]
    # In the fifth round the last accepted point is asked about once more, in the sixth all is as before.
    assert lines[-1]["train"]["loss"] < min(line["train"]["loss"] for line in lines[:3])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_samples_that_drift_are_climbed_anew(tmp_path: Path, seed: int) -> None:
    drift = {"clients.drift-round": 5, "clients.drift-group": 0, "num-server-rounds": 14}
    lines = rounds_of(run_small(tmp_path, settings=small_config(seed=seed) | LINEAR | drift))
    losses = [line["train"]["loss"] for line in lines]
    assert losses[4] > losses[3], "other labels are not what was fitted"
    assert losses[-1] < 0.5 * losses[4]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"experts.model": "mlp"}, "needs linear experts, got experts.model='mlp'"),
        ({"train.logit-adjustment": True}, "got train.logit-adjustment=true"),
    ],
)
def test_what_it_cannot_fit_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        methods_of(from_flat(small_config() | LINEAR | changes))


def test_a_job_with_a_question_trains_nothing() -> None:
    said = {"client_id": 0, "round_num": 1, "experts": (0,), "gate": True, "question": Question("x", 3)}
    assert ClientJob(**said, objective=()).question is not None
    with pytest.raises(ValueError, match="a job with a question trains nothing"):
        ClientJob(**said, objective=(Term("dense"),))
