"""The gates and the expert of the theory's mixtures, held against their formulas sample by sample."""

import numpy as np
import pytest
import torch

from fedmoe.errors import SettingsError
from fedmoe.federation.logistic_mixture import LogisticMixture
from fedmoe.federation.top_k_mixture import TopKMixture
from fedmoe.moe.construction import build_expert, build_gate
from fedmoe.moe.expert import ExpertSpec
from fedmoe.moe.gate import Gate, GateSpec

EXPERTS, WIDTH, BATCH = 6, 3, 200


def gate_of(name: str, seed: int = 0, **arguments: object) -> Gate:
    return build_gate(name, GateSpec(in_features=WIDTH, num_experts=EXPERTS, hidden=1, arguments=arguments), seed)


def inputs(seed: int) -> torch.Tensor:
    return 3 * torch.randn(BATCH, WIDTH, generator=torch.Generator().manual_seed(seed))


def softmax(row: np.ndarray) -> np.ndarray:
    return np.exp(row - row.max()) / np.exp(row - row.max()).sum()


@pytest.mark.parametrize(
    ("transform", "formula"),
    [
        ("identity", lambda x: x),
        ("tanh", np.tanh),
        ("sigmoid", lambda x: 1 / (1 + np.exp(-x))),
        ("softsign", lambda x: x / (1 + np.abs(x))),
    ],
)
def test_the_softmax_gate_reads_its_transform(transform: str, formula: object) -> None:
    gate, x_BD = gate_of("softmax", 1, transform=transform), inputs(1)
    assert callable(formula)
    weight, bias = (own.detach().numpy() for own in gate.parameters())
    by_hand = formula(x_BD.numpy()) @ weight.T + bias
    np.testing.assert_allclose(gate.scores(x_BD).detach().numpy(), by_hand, rtol=1e-5, atol=1e-5)
    far = gate.scores(1000 * x_BD).abs().max()
    assert (far > 100) == (transform == "identity"), "only the identity is unbounded"


@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.parametrize("seed", range(3))
def test_top_k_weights_are_those_of_a_loop_over_samples(seed: int, k: int, order: str) -> None:
    gate, held = gate_of("top_k", seed, k=k, order=order), [5, 0, 3]
    logits_BM = gate.scores(inputs(seed))
    weights_BK = gate.weigh(logits_BM, torch.tensor(held)).detach().numpy()
    for logits_M, weights_K in zip(logits_BM.detach().double().numpy(), weights_BK, strict=True):
        own = logits_M[held]
        best = np.argsort(-own)[:k]
        expected = np.zeros(len(held))
        expected[best] = softmax(own[best]) if order == "before" else softmax(own)[best]
        np.testing.assert_allclose(weights_K, expected, rtol=1e-4, atol=1e-6)
    sums_B = weights_BK.sum(axis=1)
    if order == "before" or k >= len(held):
        np.testing.assert_allclose(sums_B, 1, rtol=1e-5)
    else:
        assert (sums_B < 0.999).any()


@pytest.mark.parametrize("seed", range(3))
def test_without_the_bias_in_the_selection_the_slopes_choose_and_the_bias_weighs(seed: int) -> None:
    gate, x_BD = gate_of("top_k", seed, k=2, bias_in_selection=False), inputs(seed)
    weight, bias = gate.parameters()
    with torch.no_grad():
        bias.copy_(torch.linspace(-6, 6, EXPERTS))
    v_BM = (x_BD @ weight.T).detach().double().numpy()
    weights_BM = gate.weigh(gate.scores(x_BD), torch.arange(EXPERTS)).detach().numpy()
    differs = 0
    for v_M, weights_M in zip(v_BM, weights_BM, strict=True):
        best = np.argsort(-v_M)[:2]
        scores_M = v_M + bias.detach().double().numpy()
        expected = np.zeros(EXPERTS)
        expected[best] = softmax(scores_M[best])
        np.testing.assert_allclose(weights_M, expected, rtol=1e-4, atol=1e-6)
        differs += set(best) != set(np.argsort(-scores_M)[:2])
    assert differs > BATCH / 4, "the bias would have chosen others"


@pytest.mark.parametrize(("order", "moves"), [("before", False), ("after", True)])
def test_of_one_expert_only_the_weight_after_the_softmax_has_a_gradient(order: str, moves: bool) -> None:
    gate = gate_of("top_k", k=1, order=order)
    (gradient,) = torch.autograd.grad(
        gate.weigh(gate.scores(inputs(0)), torch.arange(EXPERTS)).square().sum(), [next(gate.parameters())]
    )
    assert bool(gradient.abs().max() > 1e-4) == moves


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("softmax", {"transform": "cosh"}),
        ("top_k", {"k": 0}),
        ("top_k", {"order": "within"}),
        ("top_k", {"bias_in_selection": False, "order": "after"}),
    ],
)
def test_arguments_that_are_none_are_refused(name: str, arguments: dict[str, object]) -> None:
    with pytest.raises(SettingsError, match=f"gate.{name}"):
        gate_of(name, **arguments)


def test_softmax_gate_and_linear_experts_are_the_mixture_that_em_fits() -> None:
    gate, x_BD, classes = gate_of("softmax", 2, transform="tanh"), inputs(2), 4
    experts = [
        build_expert("linear", ExpertSpec(in_shape=(WIDTH, 1, 1), num_classes=classes), i) for i in range(EXPERTS)
    ]
    ids = torch.arange(EXPERTS)
    weights_BM = gate.weigh(gate.scores(x_BD), ids)
    probs_MBC = torch.stack([torch.softmax(expert(x_BD[:, :, None, None]), dim=1) for expert in experts])
    served_BC = torch.einsum("bm,mbc->bc", weights_BM, probs_MBC).detach().numpy()
    rows = [
        torch.cat([own.weight, own.bias[:, None]], dim=1).detach().double().numpy()
        for own in (gate.linear, *(expert.head for expert in experts))
    ]
    mixture = LogisticMixture(rows[0], np.array(rows[1:]))
    x = x_BD.double().numpy()
    ones = np.ones((BATCH, 1))
    np.testing.assert_allclose(
        mixture.probs_NC(np.c_[x, ones], np.c_[np.tanh(x), ones]), served_BC, rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("bias_in_selection", [True, False])
@pytest.mark.parametrize("k", [1, 2, EXPERTS])
@pytest.mark.parametrize("seed", range(3))
def test_the_gate_of_the_gaussian_mixture_that_em_fits_is_top_k(seed: int, k: int, bias_in_selection: bool) -> None:
    gate, x_BD = gate_of("top_k", seed, k=k, bias_in_selection=bias_in_selection), inputs(seed)
    with torch.no_grad():
        gate.linear.bias.mul_(3)  # so that it counts in the choice
    rows_MG = torch.cat([gate.linear.weight, gate.linear.bias[:, None]], dim=1).detach().double().numpy()
    rows_MG -= rows_MG[-1]  # as the mixture has it: the last row is 0
    mixture = TopKMixture(rows_MG, np.zeros((EXPERTS, WIDTH + 1)), np.ones(EXPERTS), k, bias_in_selection)
    x_NG = np.c_[x_BD.double().numpy(), np.ones(BATCH)]
    weights_BM = gate.weigh(gate.scores(x_BD), torch.arange(EXPERTS)).detach().numpy()
    np.testing.assert_allclose(np.exp(mixture.log_gate_NM(x_NG)), weights_BM, rtol=1e-4, atol=1e-6)
    assert ((weights_BM > 1e-9).sum(axis=1) == k).all()
