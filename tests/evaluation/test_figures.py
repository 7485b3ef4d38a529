"""Many numbers in a few: spread over clients, mutual information, rankings, the evaluation record."""

import numpy as np
import pytest
import torch

from fedmoe.evaluation.fairness import spread
from fedmoe.evaluation.gathering import evaluation_record, held_overlap, held_sets, mutual_information
from fedmoe.evaluation.ranking import AGGREGATIONS, client_scores, loss_scores
from fedmoe.evaluation.zero_shot import ClientResult, mean_entropy
from fedmoe.moe.construction import build_expert, build_gate
from fedmoe.moe.expert import ExpertSpec
from fedmoe.moe.gate import GateSpec
from fedmoe.training.samples import ClientSamples


@pytest.mark.parametrize(("clients", "worst"), [(1, 1), (9, 1), (10, 1), (11, 2), (20, 2), (25, 3)])
@pytest.mark.parametrize("seed", range(3))
def test_the_worst_decile_is_the_mean_of_the_worst_tenth(seed: int, clients: int, worst: int) -> None:
    values = np.random.default_rng(seed).random(clients)
    told = spread(values.tolist())
    mean = sum(values) / clients
    assert told["mean"] == pytest.approx(mean)
    assert told["std"] == pytest.approx((sum((v - mean) ** 2 for v in values) / clients) ** 0.5)
    assert told["worst_decile"] == pytest.approx(sum(sorted(values)[:worst]) / worst)


def test_mutual_information_is_zero_when_routing_ignores_the_class() -> None:
    assert mutual_information(np.outer([1, 2, 5], [3, 4, 9, 2])) == pytest.approx(0, abs=1e-12)
    assert mutual_information(np.array([[3, 8, 1]])) == pytest.approx(0, abs=1e-12)
    assert mutual_information(np.zeros((2, 3), dtype=np.int64)) == 0


@pytest.mark.parametrize("classes", [2, 5])
def test_mutual_information_of_one_expert_a_class_is_the_entropy_of_the_class(classes: int) -> None:
    counts = np.arange(1, classes + 1)
    shares = counts / counts.sum()
    assert mutual_information(np.diag(counts)) == pytest.approx(-(shares * np.log(shares)).sum())


@pytest.mark.parametrize("seed", range(5))
def test_mutual_information_is_what_the_definition_says(seed: int) -> None:
    counts = np.random.default_rng(seed).integers(0, 9, (3, 4))
    total = counts.sum()
    by_hand = sum(
        n / total * np.log(n * total / (counts[m].sum() * counts[:, c].sum()))
        for (m, c), n in np.ndenumerate(counts)
        if n
    )
    assert mutual_information(counts) == pytest.approx(by_hand)
    assert mutual_information(counts.T) == pytest.approx(by_hand)


LOGITS = torch.tensor([[2.0, 0.0, 1.0], [0.0, 3.0, 1.0], [0.0, 1.0, 2.0], [0.0, 9.0, 0.0]])


def test_rankings_are_aggregated_as_they_are_called() -> None:
    powers = np.exp(LOGITS.numpy().astype(np.float64))
    expected = {
        "mean-probability": (powers / powers.sum(axis=1, keepdims=True)).mean(axis=0),
        "mean-logit": LOGITS.numpy().mean(axis=0),
        "vote": [1 / 4, 2 / 4, 1 / 4],
    }
    assert sorted(expected) == sorted(AGGREGATIONS)
    for aggregation, scores in expected.items():
        assert client_scores(LOGITS, aggregation) == pytest.approx(list(scores))
    with pytest.raises(ValueError, match="aggregation must be one of mean-probability, mean-logit, vote, got 'median'"):
        client_scores(LOGITS, "median")


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("seed", range(3))
def test_a_ranking_does_not_depend_on_the_order_of_the_samples(seed: int, aggregation: str) -> None:
    gate = build_gate("mlp", GateSpec(in_features=4, num_experts=5, hidden=6), seed)
    x_BD = torch.randn(30, 4, generator=torch.Generator().manual_seed(seed))
    order = torch.randperm(30, generator=torch.Generator().manual_seed(seed))
    one, two = (client_scores(gate.scores(inputs), aggregation) for inputs in (x_BD, x_BD[order]))
    assert one == pytest.approx(two, rel=1e-6)
    if aggregation != "mean-logit":
        assert sum(one) == pytest.approx(1)


def test_ranking_by_loss_puts_the_fitting_expert_first() -> None:
    spec = ExpertSpec(in_shape=(1, 2, 2), num_classes=3, width=4)
    pool = [build_expert("mlp", spec, seed).eval() for seed in range(4)]
    images = torch.randint(256, (50, 1, 2, 2), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    none, one = torch.zeros(50, 0), torch.ones(1, 1, 1)
    inputs = images.float()
    for wanted, expert in enumerate(pool):
        labels = expert(inputs).argmax(dim=1)
        whole = ClientSamples(images, labels, none, 0 * one, one)
        (scores,) = loss_scores(lambda i: pool[i], 4, [whole], [None])
        assert np.argmax(scores) == wanted
        by_hand = [-float(-torch.log_softmax(e(inputs), 1)[range(50), labels].mean().detach()) for e in pool]
        assert scores == pytest.approx(by_hand, rel=1e-5)


def test_the_entropy_of_a_gate_lies_between_certainty_and_a_tie() -> None:
    assert mean_entropy(torch.zeros(3, 5)) == pytest.approx(np.log(5))
    assert mean_entropy(torch.eye(4) * 200) == pytest.approx(0, abs=1e-9)
    halves = torch.tensor([[0.0, 0.0, -900.0], [-900.0, -900.0, 0.0]])
    assert mean_entropy(halves) == pytest.approx(np.log(2) / 2)


def result(routed: list[list[int]], accuracy: float, correct: list[list[int]] | None = None) -> ClientResult:
    return ClientResult(
        experts=(1, 0),
        examples=int(np.sum(routed)),
        accuracies={"zero_shot": accuracy},
        routed_MC=np.array(routed),
        class_count_C=np.sum(routed, axis=0),
        correct_MC=None if correct is None else np.array(correct),
        entropy=accuracy,
    )


def test_a_record_counts_samples_over_clients() -> None:
    one = result([[4, 0, 0], [0, 1, 0]], 0.8, [[4, 0, 0], [1, 1, 0]])
    two = result([[0, 3, 0], [2, 0, 0]], 0.4, [[2, 1, 0], [0, 3, 0]])
    record = evaluation_record({12: two, 7: one})
    assert [row["client_id"] for row in record["clients"]] == [7, 12]
    assert record["methods"]["zero_shot"]["mean"] == pytest.approx(0.6)
    np.testing.assert_allclose(record["affinity"], [[4 / 6, 3 / 4, 0], [2 / 6, 1 / 4, 0]], atol=1e-6)
    assert record["dispatch"] == [0.7, 0.3]
    np.testing.assert_allclose(record["expert_class_accuracy"], [[1, 1 / 4, 0], [1 / 6, 1, 0]], atol=1e-6)
    assert record["routing_entropy"] == pytest.approx(0.6)
    assert record["specialisation"] == pytest.approx(mutual_information(np.array([[4, 3, 0], [2, 1, 0]])))
    assert "expert_class_accuracy" not in evaluation_record({7: one, 12: result([[1, 0, 0], [0, 0, 0]], 1.0)})


@pytest.mark.parametrize("seed", range(5))
def test_the_entropy_of_the_dispatch_and_dead_experts_are_what_the_definitions_say(seed: int) -> None:
    rng = np.random.default_rng(seed)
    results = {c: result((rng.random((5, 4)) < 0.15).astype(int).tolist(), 0.5) for c in range(2)}
    record = evaluation_record(results)
    sent = [sum(int(r.routed_MC[m].sum()) for r in results.values()) for m in range(5)]
    assert record["dead_experts"] == [m for m in range(5) if sent[m] == 0]
    entropy = -sum(n / sum(sent) * np.log(n / sum(sent)) for n in sent if n)
    assert record["dispatch_entropy"] == pytest.approx(entropy, abs=1e-12)
    assert 0 <= record["dispatch_entropy"] <= np.log(5) + 1e-12


def test_a_pool_of_one_is_alive_and_certain() -> None:
    record = evaluation_record({3: result([[2, 1]], 0.5)})
    assert (record["dead_experts"], record["dispatch_entropy"]) == ([], 0)
    assert str(record["dispatch_entropy"]) == "0.0"


@pytest.mark.parametrize("seed", range(5))
def test_stability_is_the_mean_share_of_held_experts_that_stayed(seed: int) -> None:
    rng = np.random.default_rng(seed)
    before = {c: tuple(rng.permutation(6)[: rng.integers(1, 5)].tolist()) for c in range(8)}
    after = {c: tuple(rng.permutation(6)[: rng.integers(1, 5)].tolist()) for c in range(3, 12)}
    shares = []
    for client in range(3, 8):
        stayed = [expert for expert in before[client] if expert in after[client]]
        shares.append(len(stayed) / (len(before[client]) + len(after[client]) - len(stayed)))
    assert held_overlap(before, after) == pytest.approx(sum(shares) / 5)
    assert held_overlap(after, before) == held_overlap(before, after)
    assert held_overlap(before, before) == 1
    assert held_overlap(before, {c: held[::-1] for c, held in before.items()}) == 1, "order is no matter"
    assert held_overlap({1: (0, 1)}, {1: (2, 3)}) == 0
    assert held_overlap(before, {99: (0,)}) is None
    assert held_overlap({}, after) is None


def test_the_record_tells_stability_to_the_evaluation_before() -> None:
    results = {4: result([[1], [2]], 0.5), 5: result([[1], [0]], 0.5)}
    assert evaluation_record(results)["routing_stability"] is None
    record = evaluation_record(results, {4: (1, 2), 5: (0, 1)})
    assert held_sets(record) == {4: (1, 0), 5: (1, 0)}
    assert record["routing_stability"] == pytest.approx((1 / 3 + 1) / 2)
    assert held_sets({}) == {}
