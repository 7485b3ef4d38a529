"""The balance losses: where they are least, and what their formulas say."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import norm

from fedmoe.training.objective import Batch
from fedmoe.training.objectives.importance import Importance
from fedmoe.training.objectives.load import Load, chances
from fedmoe.training.objectives.switch import Switch

LOSSES = {"importance": Importance, "load": Load, "switch": Switch}
BATCH = 40


def loss_of(loss, scores_BM, held=None, weight_B=None):
    """Returns a balance loss of given scores, by the softmax rule."""
    held_K = torch.arange(scores_BM.shape[1]) if held is None else torch.tensor(held)
    model = SimpleNamespace(
        scores=lambda gate_BD: gate_BD,
        weights=lambda gate_BD: gate_BD.index_select(1, held_K).softmax(dim=1),
        expert_ids_K=held_K,
    )
    empty = torch.empty(len(scores_BM), 0)
    return loss(model, Batch(empty, torch.zeros(len(scores_BM)), scores_BM, weight_B))


def scores(seed, experts=4, spread=2.0):
    return spread * torch.randn(BATCH, experts, generator=torch.Generator().manual_seed(seed))


def balanced(experts, certainty):
    """Returns scores under which each expert is the best of equally many samples."""
    return certainty * torch.eye(experts).repeat(BATCH // experts, 1)


@pytest.mark.parametrize("experts", [2, 4, 5])
@pytest.mark.parametrize("certainty", [0.1, 3.0, 50.0])
@pytest.mark.parametrize(("name", "least"), [("importance", 0.0), ("load", 0.0), ("switch", 0.3)])
def test_at_uniform_load_the_loss_is_at_its_known_value(name, least, certainty, experts):
    loss = loss_of(LOSSES[name](weight=0.3), balanced(experts, certainty))
    torch.testing.assert_close(loss, torch.tensor(least), atol=1e-5, rtol=0)


@pytest.mark.parametrize("experts", [2, 4, 5])
@pytest.mark.parametrize(
    ("name", "most"), [("importance", lambda k: k - 1), ("load", lambda k: k - 1), ("switch", lambda k: k)]
)
def test_where_one_expert_has_all_the_loss_is_known_too(name, most, experts):
    one_sided = torch.zeros(BATCH, experts)
    one_sided[:, 1] = 60.0
    loss = loss_of(LOSSES[name](weight=0.3), one_sided)
    torch.testing.assert_close(loss, torch.tensor(0.3 * most(experts)))


@pytest.mark.parametrize("seed", range(5))
def test_importance_is_the_squared_coefficient_of_variation_of_summed_weights(seed):
    sums = scores(seed)[:, [2, 0, 3]].double().softmax(dim=1).sum(dim=0).numpy()
    expected = 0.5 * (sums.std() / sums.mean()) ** 2
    assert expected > 1e-4
    loss = loss_of(Importance(weight=0.5), scores(seed), held=[2, 0, 3])
    torch.testing.assert_close(float(loss), expected, rtol=1e-4, atol=0)


def test_importance_is_nothing_where_all_fall_back():
    model = SimpleNamespace(weights=lambda gate_BD: gate_BD * 0)
    x = torch.ones(BATCH, 3, requires_grad=True)
    loss = Importance()(model, Batch(torch.empty(BATCH, 0), torch.zeros(BATCH), x))
    loss.backward()
    assert float(loss.detach()) == 0
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("seed", range(3))
def test_a_chance_is_the_share_of_fresh_noise_that_brings_an_expert_among_the_best(seed, k):
    """By trial: the expert's own score is shaken, the others' are left."""
    rng, own = np.random.default_rng(seed), scores(seed)[:5].double()
    found = chances(own, k, 0.7).numpy()
    for b in range(5):
        for m in range(4):
            others = np.sort(np.delete(own[b].numpy(), m))[::-1]
            shaken = own[b, m].item() + 0.7 * rng.standard_normal(20000)
            assert abs((shaken > others[k - 1]).mean() - found[b, m]) < 0.02
            np.testing.assert_allclose(found[b, m], norm.cdf((own[b, m].item() - others[k - 1]) / 0.7), atol=1e-9)


@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("seed", range(3))
def test_for_small_deviations_the_load_is_the_count(seed, k):
    best = scores(seed).argsort(dim=1, descending=True)[:, :k]
    counts = np.bincount(best.flatten(), minlength=4)
    expected = (counts.std() / counts.mean()) ** 2
    assert expected > 1e-3
    loss = loss_of(Load(weight=1.0, k=k, deviation=1e-4), scores(seed))
    torch.testing.assert_close(float(loss), expected, rtol=1e-3, atol=0)


def test_who_holds_no_more_than_a_sample_gets_has_nothing_to_balance():
    x = scores(0).requires_grad_()
    loss = loss_of(Load(k=2), x, held=[1, 3])
    loss.backward()
    assert float(loss.detach()) == 0
    assert (x.grad == 0).all()


def share_and_mean(own):
    share = np.bincount(own.argmax(dim=1), minlength=own.shape[1]) / len(own)
    return share, own.double().softmax(dim=1).mean(dim=0).numpy()


@pytest.mark.parametrize("seed", range(20))
def test_switch_is_one_plus_the_covariance_of_share_and_probability(seed):
    own = scores(seed, spread=0.3 + seed / 10) + torch.linspace(0, seed / 10, 4)
    share, mean = share_and_mean(own)
    expected = 1 + 4 * ((share - 0.25) * (mean - 0.25)).sum()
    loss = float(loss_of(Switch(weight=1.0), own))
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    assert loss >= (share**2).sum() - 1e-6 >= 0.25 - 2e-6
    if (np.argsort(share) == np.argsort(mean)).all():
        assert loss >= 1 - 1e-6


@pytest.mark.parametrize("seed", range(5))
def test_switch_of_a_certain_gate_is_least_at_uniform_load_alone(seed):
    counts = np.random.default_rng(seed).multinomial(BATCH, [0.4, 0.3, 0.2, 0.1])
    own = 60 * torch.eye(4)[np.repeat(np.arange(4), counts)]
    loss = float(loss_of(Switch(weight=1.0), own))
    np.testing.assert_allclose(loss, 4 * ((counts / BATCH) ** 2).sum(), rtol=1e-5)
    assert loss > 1


def test_switch_can_be_below_its_value_at_uniform_load():
    """Why the paper's minimum needs a condition: the example of the docstring."""
    rows = [[0.51, 0.49]] * 51 + [[0.01, 0.99]] * 49
    loss = float(loss_of(Switch(weight=1.0), torch.tensor(rows).log()))
    assert 0.99 < loss < 0.991


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", LOSSES)
def test_a_step_down_the_gradient_evens_the_load(name, seed):
    x = (scores(seed) + torch.tensor([2.0, 0, 0, 0])).requires_grad_()
    for _ in range(200):
        (slope,) = torch.autograd.grad(loss_of(LOSSES[name](weight=1.0), x), x)
        x = (x.detach() - 5 * slope).requires_grad_()
    before, after = (share_and_mean(own)[1].std() for own in (scores(seed) + torch.tensor([2.0, 0, 0, 0]), x.detach()))
    assert after < before / 2


@pytest.mark.parametrize("name", LOSSES)
def test_rows_that_fill_up_do_not_count(name):
    own, loss = scores(1), LOSSES[name]()
    weight_B = (torch.arange(BATCH) < 25).float()
    torch.testing.assert_close(loss_of(loss, own, weight_B=weight_B), loss_of(loss, own[:25]))
    assert not torch.isclose(loss_of(loss, own), loss_of(loss, own[:25]))


@pytest.mark.parametrize("name", LOSSES)
def test_one_held_expert_gives_no_gradient(name):
    x = scores(2).requires_grad_()
    loss_of(LOSSES[name](), x, held=[2]).backward()
    assert x.grad.abs().max() < 1e-8


@pytest.mark.parametrize("name", LOSSES)
def test_many_clients_losses_as_one_program(name):
    stacked, loss = torch.stack([scores(seed) for seed in range(3)]), LOSSES[name]()
    together = torch.func.vmap(lambda own: loss_of(loss, own))(stacked)
    torch.testing.assert_close(together, torch.stack([loss_of(loss, own) for own in stacked]))
