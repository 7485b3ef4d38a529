import numpy as np
import pytest
import torch

from fedmoe.moe.mixture import mix
from fedmoe.moe.routing import route


def logits(seed: int, *shape: int) -> torch.Tensor:
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("top_k", [1, 2, 3])
@pytest.mark.parametrize("seed", range(5))
def test_top_k_takes_the_best_held_experts(seed: int, top_k: int) -> None:
    held_M = torch.tensor([True, True, False, True, False])
    logits_BM = logits(seed, 20, 5)
    routing = route(logits_BM, held_M, top_k)
    for row, chosen in zip(logits_BM.tolist(), routing.expert_ids_BK.tolist(), strict=True):
        assert chosen == sorted([0, 1, 3], key=lambda i: -row[i])[:top_k]
    torch.testing.assert_close(routing.weights_BK.sum(dim=1), torch.ones(20))
    assert routing.logits_BM is logits_BM


def test_ties_fall_to_the_lower_id() -> None:
    routing = route(torch.zeros(2, 4), torch.tensor([False, True, True, True]), 2)
    assert routing.expert_ids_BK.tolist() == [[1, 2], [1, 2]]


@pytest.mark.parametrize(("held", "top_k"), [([False, False], None), ([True, False], 2), ([True, True], 0)])
def test_more_experts_than_are_held_are_refused(held: list[bool], top_k: int | None) -> None:
    with pytest.raises(ValueError, match="top_k must lie between 1 and the number of held experts"):
        route(torch.zeros(3, 2), torch.tensor(held), top_k)


def test_no_gradient_reaches_an_expert_that_is_not_held() -> None:
    logits_BM = logits(0, 6, 4).requires_grad_()
    route(logits_BM, torch.tensor([True, False, True, False])).weights_BK[:, 0].sum().backward()
    assert logits_BM.grad is not None
    assert torch.equal(logits_BM.grad[:, [1, 3]], torch.zeros(6, 2))
    assert logits_BM.grad[:, [0, 2]].abs().sum() > 0


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
    weights_B1 = route(logits(4, 9, 1), None, 1).weights_BK
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
