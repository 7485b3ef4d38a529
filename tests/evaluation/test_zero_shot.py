from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from fedmoe.data.population import build_population
from fedmoe.evaluation.served import served_ids
from fedmoe.evaluation.zero_shot import ClientResult, Serving, common_expert_result, serve_client
from fedmoe.moe.construction import build_expert, build_gate
from fedmoe.moe.expert import Expert, ExpertSpec
from fedmoe.moe.gate import Gate, GateSpec
from fedmoe.training.samples import ClientSamples
from tests.small import blobs, small_settings

CLASSES, POOL, WIDTH, SIZE = 4, 5, 3, 60
PRIOR = torch.full((CLASSES,), 1 / CLASSES, dtype=torch.float64)


def client(seed: int, size: int = SIZE) -> ClientSamples:
    stream = torch.Generator().manual_seed(seed)
    return ClientSamples(
        images=torch.randint(256, (size, 1, 2, 2), generator=stream).to(torch.uint8),
        y=torch.randint(CLASSES, (size,), generator=stream),
        gate_input=torch.randn(size, WIDTH, generator=stream),
        common_logits=torch.randn(size, CLASSES, generator=stream),
        mean=torch.full((1, 1, 1), 128.0),
        std=torch.full((1, 1, 1), 60.0),
    )


def pool(seed: int) -> tuple[list[Expert], Callable[[int], Expert]]:
    spec = ExpertSpec(in_shape=(1, 2, 2), num_classes=CLASSES, width=6)
    experts = [build_expert("mlp", spec, 10 * seed + i) for i in range(POOL)]
    return experts, lambda i: experts[i]


def gate_of(seed: int, name: str = "mlp") -> Gate:
    return build_gate(name, GateSpec(in_features=WIDTH, num_experts=POOL, hidden=6), seed)


def serve(seed: int, samples: ClientSamples, serving: Serving, gate: Gate | None = None) -> ClientResult:
    rng = np.random.default_rng(0)
    return serve_client(gate or gate_of(seed), pool(seed)[1], POOL, samples, serving, PRIOR, rng)


@torch.no_grad()
def by_hand(seed: int, samples: ClientSamples, k: int) -> tuple[list[int], list[int], list[int]]:
    """Held experts, the expert of each sample and its prediction, sample after sample."""
    probabilities = torch.softmax(gate_of(seed).scores(samples.gate_input).double(), dim=1).numpy()
    held = np.argsort(-probabilities.mean(axis=0))[:k].tolist()
    chosen = [max(held, key=lambda i: row[i]) for row in probabilities]
    experts, _ = pool(seed)
    predicted = [int(experts[i](samples.inputs(slice(n, n + 1))).argmax()) for n, i in enumerate(chosen)]
    return held, chosen, predicted


@pytest.mark.parametrize("k", [1, 2, 5])
@pytest.mark.parametrize("seed", range(4))
def test_each_sample_is_told_by_the_best_of_the_clients_experts(seed: int, k: int) -> None:
    samples = client(seed)
    result = serve(seed, samples, Serving(top_k=k))
    held, chosen, predicted = by_hand(seed, samples, k)
    assert list(result.experts) == held
    hits = np.array(predicted) == samples.y.numpy()
    assert result.accuracies["zero_shot"] == pytest.approx(hits.mean())
    routed = np.zeros((POOL, CLASSES), dtype=int)
    np.add.at(routed, (chosen, samples.y.numpy()), 1)
    np.testing.assert_array_equal(result.routed_MC, routed)
    assert set(np.flatnonzero(result.routed_MC.sum(axis=1))) <= set(result.experts)
    assert ("mixture" in result.accuracies) == (k > 1)
    assert "best_expert" not in result.accuracies
    assert result.examples == SIZE


@pytest.mark.parametrize("seed", range(4))
def test_the_mixture_weighs_the_held_experts_by_the_gate(seed: int) -> None:
    samples, (experts, _) = client(seed), pool(seed)
    with torch.no_grad():
        scores = gate_of(seed).scores(samples.gate_input)
        result = serve(seed, samples, Serving(top_k=3))
        weights = torch.softmax(scores[:, list(result.experts)], dim=1)
        inputs = samples.inputs(slice(None))
        mixed = sum(weights[:, [n]] * experts[i](inputs).softmax(1) for n, i in enumerate(result.experts))
    assert result.accuracies["mixture"] == pytest.approx(float((mixed.argmax(1) == samples.y).double().mean()))


@pytest.mark.parametrize("seed", range(4))
def test_labels_are_counted_and_never_chosen_by(seed: int) -> None:
    samples = client(seed)
    shuffled = replace(samples, y=samples.y.flip(0))
    one, two = (serve(seed, each, Serving(top_k=2)) for each in (samples, shuffled))
    assert one.experts == two.experts
    assert one.scores == two.scores
    np.testing.assert_array_equal(one.routed_MC.sum(axis=1), two.routed_MC.sum(axis=1))


@pytest.mark.parametrize("seed", range(4))
def test_the_best_expert_in_hindsight_is_an_upper_bound(seed: int) -> None:
    samples, (experts, _) = client(seed), pool(seed)
    plain, seen = (serve(seed, samples, Serving(top_k=1, hindsight=hindsight)) for hindsight in (False, True))
    with torch.no_grad():
        predicted = [expert(samples.inputs(slice(None))).argmax(1) for expert in experts]
    hits = [float((guess == samples.y).double().mean()) for guess in predicted]
    assert seen.accuracies["best_expert"] == pytest.approx(max(hits))
    assert seen.accuracies["best_expert"] >= seen.accuracies["zero_shot"]
    assert seen.accuracies["zero_shot"] == plain.accuracies["zero_shot"]
    assert seen.correct_MC is not None
    np.testing.assert_allclose(seen.correct_MC.sum(axis=1) / SIZE, hits)
    assert (seen.correct_MC <= seen.class_count_C).all()
    assert plain.correct_MC is None


def test_a_dense_model_needs_no_gate() -> None:
    samples, (experts, _) = client(0), pool(0)
    rng = np.random.default_rng(0)
    result = serve_client(None, lambda _: experts[3], 1, samples, Serving(top_k=1), PRIOR, rng)
    with torch.no_grad():
        hits = (experts[3](samples.inputs(slice(None))).argmax(1) == samples.y).double()
    assert result.accuracies["zero_shot"] == pytest.approx(float(hits.mean()))
    assert result.experts == (0,)
    assert sorted(result.accuracies) == ["zero_shot", "zero_shot_em"]


def test_a_uniform_gate_gives_experts_by_lot() -> None:
    samples = client(0)
    gate = gate_of(0, "uniform")
    seen = {
        serve_client(gate, pool(0)[1], POOL, samples, Serving(top_k=1), PRIOR, np.random.default_rng(seed)).experts
        for seed in range(40)
    }
    assert seen == {(i,) for i in range(POOL)}


@pytest.mark.parametrize("size", [1, 511, 513, 1100])
def test_batches_do_not_show_in_the_result(size: int) -> None:
    samples = client(1, size)
    result = serve(1, samples, Serving(top_k=2))
    _, _, predicted = by_hand(1, samples, 2)
    assert result.accuracies["zero_shot"] == pytest.approx((np.array(predicted) == samples.y.numpy()).mean())
    assert result.class_count_C.sum() == result.routed_MC.sum() == size


def test_the_common_expert_is_judged_on_its_cached_logits() -> None:
    samples = client(2)
    result = common_expert_result(samples, PRIOR)
    assert result["plain"] == pytest.approx(float((samples.common_logits.argmax(1) == samples.y).double().mean()))
    perfect = replace(samples, common_logits=torch.nn.functional.one_hot(samples.y, CLASSES).float() * 50)
    assert common_expert_result(perfect, PRIOR) == {"plain": 1.0, "em": 1.0}


@pytest.mark.parametrize("limit", [0, 5, 10_000])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_same_samples_are_served_each_time(seed: int, limit: int) -> None:
    population = build_population(blobs(None), small_settings(seed=seed))
    for client_id in population.unseen:
        ids = served_ids(population, client_id, limit, seed)
        assert np.array_equal(ids, served_ids(population, client_id, limit, seed))
        assert np.isin(ids, population.shards[client_id]).all()
        assert (np.diff(ids) > 0).all()
        assert len(ids) == (5 if limit == 5 else len(population.shards[client_id]))
    if limit == 5:
        assert not np.array_equal(ids, served_ids(population, client_id, limit, seed + 1))
