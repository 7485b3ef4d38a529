"""The rules of gates that choose: cosine, top-p, expert choice, noisy top-k, sigmoid, each against its formula."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import kstest, norm

from fedmoe.errors import SettingsError
from fedmoe.moe.construction import build_gate
from fedmoe.moe.gate import GateSpec
from fedmoe.training.samples import Lots

BATCH, WIDTH, POOL = 60, 6, 5
HELD = torch.tensor([3, 0, 4])


def gate_of(name, seed=0, **arguments):
    return build_gate(name, GateSpec(in_features=WIDTH, num_experts=POOL, hidden=8, arguments=arguments), seed)


def logits(seed, spread=2.0):
    return spread * torch.randn(BATCH, POOL, generator=torch.Generator().manual_seed(seed))


def inputs(seed, gate=None):
    read = torch.randn(BATCH, WIDTH, generator=torch.Generator().manual_seed(seed))
    return read if gate is None else torch.cat([read, Lots(seed, POOL, gate.draws).numbers(BATCH)], dim=1)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("cosine", {"temperature": 0.0}),
        ("expert_choice", {"capacity": 0.0}),
        ("grkan", {"activation": "tanh"}),
        ("noisy_top_k", {"k": 0}),
        ("top_p", {"p": 0.0}),
        ("top_p", {"p": 1.1}),
    ],
)
def test_arguments_out_of_range_are_refused(name, arguments):
    with pytest.raises(SettingsError, match="hint"):
        gate_of(name, **arguments)


@pytest.mark.parametrize("temperature", [0.05, 0.5])
@pytest.mark.parametrize("seed", range(3))
def test_cosine_is_its_formula_and_blind_to_length(seed, temperature):
    gate, x = gate_of("cosine", seed, temperature=temperature), inputs(seed)
    scores = gate.scores(x).detach().double().numpy()
    weight, points = (part.detach().double().numpy() for part in (gate.project.weight, gate.points_MH))
    for row, own in zip(x.double().numpy(), scores, strict=True):
        there = weight @ row
        cosines = [there @ point / np.linalg.norm(there) / np.linalg.norm(point) for point in points]
        np.testing.assert_allclose(own, np.array(cosines) / temperature, rtol=1e-4, atol=1e-4)
    assert np.abs(scores).max() <= 1 / temperature + 1e-4
    torch.testing.assert_close(gate.scores(7 * x), gate.scores(x))
    with torch.no_grad():
        gate.points_MH.mul_(torch.rand(POOL, 1) + 0.5)
    torch.testing.assert_close(gate.scores(x).detach().numpy(), scores.astype(np.float32))


def test_an_empty_embedding_has_no_direction_and_no_nan():
    gate = gate_of("cosine")
    x = torch.zeros(2, WIDTH)
    gate.scores(x).sum().backward()
    assert torch.equal(gate.scores(x), torch.zeros(2, POOL))
    assert all(torch.isfinite(parameter.grad).all() for parameter in gate.parameters())


@pytest.mark.parametrize("p", [0.6, 0.8, 0.99])
@pytest.mark.parametrize("seed", range(3))
def test_top_p_is_the_smallest_set_that_reaches_p(seed, p):
    scores = logits(seed)
    weights = gate_of("top_p", p=p).weigh(scores, HELD)
    sizes = set()
    for row, own in zip(scores[:, HELD].double().softmax(dim=1).numpy(), weights.numpy(), strict=True):
        best_first = np.argsort(-row)
        size = next(n for n in range(1, 4) if row[best_first[:n]].sum() >= p)
        expected = np.zeros(3)
        expected[best_first[:size]] = row[best_first[:size]] / row[best_first[:size]].sum()
        np.testing.assert_allclose(own, expected, atol=1e-6)
        sizes.add(size)
    assert len(sizes) > 1, "the size of the set must follow the sample"


def test_top_p_of_one_is_the_softmax_and_of_next_to_nothing_the_best():
    scores = logits(0)
    torch.testing.assert_close(gate_of("top_p", p=1.0).weigh(scores, HELD), scores[:, HELD].softmax(dim=1))
    best = torch.nn.functional.one_hot(scores[:, HELD].argmax(dim=1), 3).float()
    torch.testing.assert_close(gate_of("top_p", p=1e-6).weigh(scores, HELD), best)


@pytest.mark.parametrize("capacity", [0.5, 1.0, 1.7])
@pytest.mark.parametrize("seed", range(3))
def test_each_expert_takes_its_best_share_of_the_batch(seed, capacity):
    scores = logits(seed)
    weights = gate_of("expert_choice", capacity=capacity).weigh(scores, HELD)
    probs = scores[:, HELD].softmax(dim=1)
    places = math.ceil(capacity * BATCH / 3)
    for own, column in zip(probs.T, weights.T, strict=True):
        taken = (column > 0).nonzero().squeeze(1).tolist()
        assert taken == sorted(sorted(range(BATCH), key=lambda b: -float(own[b]))[:places])
        torch.testing.assert_close(column[taken], own[taken])
    assert (weights.sum(dim=1) <= 1 + 1e-6).all()
    assert bool((weights.sum(dim=1) == 0).any()) == (capacity < 1.7), "with few places some sample finds none"


def test_a_tie_gives_no_expert_more_than_its_share():
    weights = gate_of("expert_choice").weigh(torch.zeros(BATCH, POOL), HELD)
    assert ((weights > 0).sum(dim=0) == BATCH // 3).all()


def test_experts_that_may_take_all_do():
    scores = logits(1)
    weights = gate_of("expert_choice", capacity=3.0).weigh(scores, HELD)
    torch.testing.assert_close(weights, scores[:, HELD].softmax(dim=1))


def test_a_samples_experts_hang_on_the_samples_beside_it():
    """What its page warns of; no other gate is so."""
    gate, scores = gate_of("expert_choice"), logits(2)
    assert not torch.allclose(gate.weigh(scores, HELD)[:10], gate.weigh(scores[:10], HELD))
    alone = gate.weigh(scores[:1], HELD)
    torch.testing.assert_close(alone, scores[:1, HELD].softmax(dim=1))


@pytest.mark.parametrize("k", [1, 2, 9])
@pytest.mark.parametrize("seed", range(3))
def test_noisy_top_k_is_the_softmax_over_the_best_k(seed, k):
    scores = logits(seed)
    weights = gate_of("noisy_top_k", k=k).weigh(scores, HELD)
    for row, own in zip(scores[:, HELD].double().numpy(), weights.numpy(), strict=True):
        powers = np.where(np.argsort(np.argsort(-row)) < k, np.exp(row), 0)
        np.testing.assert_allclose(own, powers / powers.sum(), rtol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_its_noise_is_normal_of_a_learnt_size_and_in_training_alone(seed):
    gate = gate_of("noisy_top_k", seed)
    stream = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        gate.score_MD.normal_(generator=stream)
        gate.noise_MD.normal_(generator=stream)
    many = torch.cat([inputs(seed, gate) for _ in range(1)])
    read = many[:1, :WIDTH].expand(4000, WIDTH)
    x = torch.cat([read, Lots(seed, POOL, gate.draws).numbers(4000)], dim=1)
    clean = x[:, :WIDTH] @ gate.score_MD.T
    torch.testing.assert_close(gate.eval().scores(x), clean)
    size = torch.nn.functional.softplus(x[:, :WIDTH] @ gate.noise_MD.T)
    noise = ((gate.train().scores(x) - clean) / size).detach().double().numpy()
    for column in noise.T:
        assert kstest(column, norm.cdf).pvalue > 1e-3
    assert np.abs(np.corrcoef(noise.T) - np.eye(POOL)).max() < 0.1


def test_a_new_noisy_gate_deals_evenly():
    gate = gate_of("noisy_top_k", k=1)
    x = torch.cat([torch.randn(5000, WIDTH), Lots(0, POOL, gate.draws).numbers(5000)], dim=1)
    share = gate.weigh(gate.scores(x), torch.arange(POOL)).mean(dim=0)
    torch.testing.assert_close(share, torch.full((POOL,), 1 / POOL), atol=0.03, rtol=0)


@pytest.mark.parametrize("name", ["grn", "grkan"])
def test_sigmoid_weights_are_divided_by_their_sum(name):
    scores = logits(3)
    powers = 1 / (1 + (-scores[:, HELD]).exp())
    weights = gate_of(name, activation="sigmoid").weigh(scores, HELD)
    torch.testing.assert_close(weights, powers / powers.sum(dim=1, keepdim=True))
    torch.testing.assert_close(gate_of(name).weigh(scores, HELD), scores[:, HELD].softmax(dim=1))
    assert torch.isfinite(gate_of(name, activation="sigmoid").weigh(scores - 300, HELD)).all()
