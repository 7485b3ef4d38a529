from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from fedmoe.data.population import build_population
from fedmoe.evaluation.prior_em import correct_priors
from fedmoe.evaluation.served import served_ids
from fedmoe.evaluation.serving import Serving
from fedmoe.evaluation.zero_shot import ClientResult, common_expert_results, serve_clients
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
    (result,) = serve_clients(gate or gate_of(seed), pool(seed)[1], POOL, [samples], serving, PRIOR, [rng])
    return result


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


def test_the_correction_is_of_the_clients_own_batch() -> None:
    prior, moved = torch.tensor([0.55, 0.25, 0.15, 0.05], dtype=torch.float64), 0
    clients = [client(seed, 30 + 20 * seed) for seed in range(4)]
    ties = [np.random.default_rng(0) for _ in clients]
    results = serve_clients(gate_of(1), pool(1)[1], POOL, clients, Serving(top_k=1), prior, ties)
    for samples, result in zip(clients, results, strict=True):
        with torch.no_grad():
            log_probs = torch.log_softmax(pool(1)[0][result.experts[0]](samples.inputs(slice(None))), dim=1)
        (corrected,) = correct_priors([log_probs], prior)
        share = float((corrected.argmax(dim=1) == samples.y).double().mean())
        assert result.accuracies["zero_shot_em"] == pytest.approx(share)
        moved += result.accuracies["zero_shot_em"] != result.accuracies["zero_shot"]
    assert moved > 2


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
    (result,) = serve_clients(None, lambda _: experts[3], 1, [samples], Serving(top_k=1), PRIOR, [rng])
    with torch.no_grad():
        hits = (experts[3](samples.inputs(slice(None))).argmax(1) == samples.y).double()
    assert result.accuracies["zero_shot"] == pytest.approx(float(hits.mean()))
    assert result.experts == (0,)
    assert sorted(result.accuracies) == ["zero_shot", "zero_shot_em"]


def test_a_uniform_gate_gives_experts_by_lot() -> None:
    gate, lots = gate_of(0, "uniform"), [np.random.default_rng(seed) for seed in range(40)]
    results = serve_clients(gate, pool(0)[1], POOL, [client(0)] * 40, Serving(top_k=1), PRIOR, lots)
    assert {result.experts for result in results} == {(i,) for i in range(POOL)}


@pytest.mark.parametrize(
    ("k", "hindsight", "output"), [(1, False, "logit"), (2, True, "probability"), (5, False, "logit")]
)
@pytest.mark.parametrize("seed", range(4))
def test_a_client_fares_the_same_alone_and_among_others(seed: int, k: int, hindsight: bool, output: str) -> None:
    serving = Serving(top_k=k, hindsight=hindsight, output=output)
    sizes = np.random.default_rng(seed).integers(1, 200, 7).tolist()
    clients = [client(10 * seed + n, size) for n, size in enumerate(sizes)]

    def served(some: list[int]) -> list[str]:
        ties = [np.random.default_rng(n) for n in some]
        own = [clients[n] for n in some]
        gate = gate_of(seed, "mlp" if seed % 2 else "uniform")
        results = serve_clients(gate, pool(seed)[1], POOL, own, serving, PRIOR, ties)
        told = [{**vars(result), "scores": [score.hex() for score in result.scores]} for result in results]
        return [repr(own | {"seconds": None}) for own in told]

    together = served([3, 1, 0, 6, 2, 5, 4])
    for place, n in enumerate([3, 1, 0, 6, 2, 5, 4]):
        assert served([n]) == [together[place]]
    assert served([6, 2]) == together[3:5]


def test_the_time_to_serve_is_shared_out_among_those_served_together_and_hindsight_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, loads = [0.0], []

    def load(expert_id: int) -> Expert:
        # each expert takes a second, whoever it is for
        clock[0] += 1
        loads.append(expert_id)
        return pool(0)[0][expert_id]

    monkeypatch.setattr("fedmoe.evaluation.zero_shot.time.perf_counter", lambda: clock[0])
    clients = [client(seed) for seed in range(4)]
    for hindsight in (False, True):
        serving, ties = Serving(top_k=1, hindsight=hindsight), [np.random.default_rng(0) for _ in clients]
        loads.clear()
        results = serve_clients(gate_of(0), load, POOL, clients, serving, PRIOR, ties)
        held = {result.experts[0] for result in results}
        assert [result.seconds for result in results] == [len(held) / 4] * 4
        assert set(loads) == (set(range(POOL)) if hindsight else held)


@pytest.mark.parametrize("size", [1, 511, 513, 1100])
def test_batches_do_not_show_in_the_result(size: int) -> None:
    samples = client(1, size)
    result = serve(1, samples, Serving(top_k=2))
    _, _, predicted = by_hand(1, samples, 2)
    assert result.accuracies["zero_shot"] == pytest.approx((np.array(predicted) == samples.y.numpy()).mean())
    assert result.class_count_C.sum() == result.routed_MC.sum() == size


def test_the_common_expert_is_judged_on_its_cached_logits() -> None:
    stream = torch.Generator().manual_seed(2)
    logits, y = torch.randn(SIZE, CLASSES, generator=stream), torch.randint(CLASSES, (SIZE,), generator=stream)
    perfect = torch.nn.functional.one_hot(y, CLASSES).float() * 50
    one, two = common_expert_results([logits, perfect], [y, y], PRIOR)
    assert one["plain"] == pytest.approx(float((logits.argmax(1) == y).double().mean()))
    assert two == {"plain": 1.0, "em": 1.0}


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
