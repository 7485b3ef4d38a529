import numpy as np
import pytest
import torch

from fedmoe.moe.construction import build_gate
from fedmoe.moe.gate import GateSpec
from fedmoe.moe.mixture import mix, with_common
from fedmoe.moe.routing import best_held, ordered


def logits(seed: int, *shape: int) -> torch.Tensor:
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("seed", range(5))
def test_experts_come_by_weight_then_by_score_then_by_id(seed: int) -> None:
    rng = np.random.default_rng(seed)
    ids_K = torch.tensor([0, 1, 3, 4])
    logits_BM = torch.from_numpy(rng.integers(0, 3, (40, 6)).astype(np.float32))
    weights_BK = torch.from_numpy(rng.integers(0, 3, (40, 4)).astype(np.float32))
    routing = ordered(logits_BM, ids_K, weights_BK)
    assert routing.logits_BM is logits_BM
    for row, ids, weights, own in zip(
        logits_BM.tolist(),
        routing.expert_ids_BK.tolist(),
        routing.weights_BK.tolist(),
        weights_BK.tolist(),
        strict=True,
    ):
        by_id = dict(zip(ids_K.tolist(), own, strict=True))
        assert ids == sorted(by_id, key=lambda i: (-by_id[i], -row[i], i))
        assert weights == [by_id[i] for i in ids]


@pytest.mark.parametrize("seed", range(5))
def test_the_best_held_expert_has_the_greatest_weight_and_of_equal_ones_the_greatest_score(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores_BK = torch.from_numpy(rng.normal(size=(200, 3)).astype(np.float32))
    weights_BK = torch.from_numpy(rng.integers(0, 3, (200, 4)).astype(np.float32) / 8)
    for best, scores, weights in zip(
        best_held(scores_BK, weights_BK).tolist(), scores_BK.tolist(), weights_BK.tolist(), strict=True
    ):
        assert best == min(range(4), key=lambda k: (-weights[k], -(scores[k] if k < 3 else -np.inf), k))
    assert torch.equal(best_held(scores_BK, torch.softmax(scores_BK, dim=1)), scores_BK.argmax(dim=1))


def test_a_score_of_minus_infinity_does_not_win_against_weight() -> None:
    scores_BK = torch.tensor([[float("-inf"), 5.0], [float("-inf"), 5.0]])
    assert best_held(scores_BK, torch.tensor([[1.0, 0.0], [0.0, 1.0]])).tolist() == [0, 1]


@pytest.mark.parametrize("seed", range(3))
def test_what_is_left_of_the_weights_is_the_common_experts(seed: int) -> None:
    logits_KBC, common_BC = logits(seed, 2, 7, 4), logits(seed + 9, 7, 4)
    weights_BK = torch.rand(7, 2, generator=torch.Generator().manual_seed(seed)) / 2
    whole_KBC, whole_BK = with_common(logits_KBC, weights_BK, common_BC)
    expected_BC = sum(
        weight_B[:, None] * torch.softmax(own_BC, dim=1)
        for weight_B, own_BC in zip([*weights_BK.T, 1 - weights_BK.sum(dim=1)], [*logits_KBC, common_BC], strict=True)
    )
    torch.testing.assert_close(mix(whole_KBC, whole_BK).exp(), expected_BC)
    assert with_common(logits_KBC, torch.full((7, 2), 0.6), common_BC)[1].min() >= 0, "rounding takes nothing away"


@pytest.mark.parametrize("seed", range(3))
def test_a_mixture_is_the_weighted_mean(seed: int) -> None:
    logits_KBC = logits(seed, 3, 8, 4).double()
    weights_BK = torch.softmax(logits(seed + 50, 8, 3).double(), dim=1)
    parts, weights = logits_KBC.numpy(), weights_BK.numpy()
    probabilities = np.exp(parts) / np.exp(parts).sum(axis=2, keepdims=True)
    expected = np.einsum("kbc,bk->bc", probabilities, weights)
    np.testing.assert_allclose(mix(logits_KBC, weights_BK).exp().numpy(), expected, rtol=1e-9)
    mixed = np.einsum("kbc,bk->bc", parts, weights)
    expected = np.exp(mixed) / np.exp(mixed).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(mix(logits_KBC, weights_BK, "logit").exp().numpy(), expected, rtol=1e-9)


@pytest.mark.parametrize("output", ["probability", "logit"])
def test_one_expert_with_top_1_routing_is_the_dense_model(output: str) -> None:
    logits_1BC = logits(3, 1, 9, 5)
    weights_B1 = build_gate("mlp", GateSpec(in_features=3, num_experts=1, hidden=4), 0)(logits(4, 9, 3)).weights_BK
    torch.testing.assert_close(mix(logits_1BC, weights_B1, output), torch.log_softmax(logits_1BC[0], dim=1))


def test_a_weight_of_zero_leaves_an_expert_out_and_its_gradient_finite() -> None:
    logits_KBC = logits(5, 2, 4, 3).requires_grad_()
    weights_BK = torch.tensor([[1.0, 0.0]]).expand(4, 2)
    mixed_BC = mix(logits_KBC, weights_BK)
    torch.testing.assert_close(mixed_BC, torch.log_softmax(logits_KBC[0], dim=1))
    mixed_BC[:, 0].sum().backward()
    assert logits_KBC.grad is not None
    assert torch.isfinite(logits_KBC.grad).all()


def test_an_unknown_output_is_refused() -> None:
    with pytest.raises(ValueError, match="output must be 'probability' or 'logit', got 'median'"):
        mix(torch.zeros(1, 2, 3), torch.ones(2, 1), "median")
