"""The gate `noisy_top1`: what it starts as, its noise, its one expert, its gradient, and the paper's form of output."""

from math import exp

import pytest
import torch
from torch import Tensor

from fedmoe.moe.construction import build_gate
from fedmoe.moe.gate import Gate, GateSpec
from fedmoe.moe.mixture import mix, with_common

EXPERTS, WIDTH, BATCH = 5, 7, 600


def make(seed: int = 0, theta: float = 0.0, **arguments: object) -> Gate:
    spec = GateSpec(in_features=WIDTH, num_experts=EXPERTS, hidden=1, arguments=arguments)
    gate = build_gate("noisy_top1", spec, seed)
    with torch.no_grad():
        next(gate.parameters()).copy_(
            theta * torch.randn(EXPERTS, WIDTH, generator=torch.Generator().manual_seed(seed))
        )
    return gate


def read_and_lots(seed: int) -> tuple[Tensor, Tensor]:
    stream = torch.Generator().manual_seed(seed)
    return torch.randn(BATCH, WIDTH, generator=stream), torch.rand(BATCH, EXPERTS, generator=stream)


@pytest.mark.parametrize("seed", range(3))
def test_at_first_samples_fall_on_experts_by_lot_alone(seed: int) -> None:
    gate, both = make(seed).train(), torch.cat(read_and_lots(seed), dim=1)
    counts = torch.bincount(gate.scores(both).argmax(dim=1), minlength=EXPERTS)
    # chi-square with 4 degrees of freedom lies below 18.5 in 999 of 1000 fair lotteries
    assert float(((counts - BATCH / EXPERTS) ** 2 / (BATCH / EXPERTS)).sum()) < 18.5
    assert not gate.eval().scores(both).any()


@pytest.mark.parametrize("noise", [0.0, 0.5, 1.0])
def test_noise_is_added_in_training_alone(noise: float) -> None:
    gate, (read_BD, lots_BM) = make(1, 1.0, noise=noise), read_and_lots(1)
    both, theta_MD = torch.cat([read_BD, lots_BM], dim=1), next(gate.parameters()).detach()
    clean_BM = torch.stack([torch.stack([(theta_D * x_D).sum() for theta_D in theta_MD]) for x_D in read_BD])
    with torch.no_grad():
        torch.testing.assert_close(gate.eval().scores(both), clean_BM, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(gate.train().scores(both), clean_BM + noise * lots_BM, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("ids", [[0, 1, 2, 3, 4], [3, 1], [2], [4, 0, 2]])
def test_one_held_expert_has_its_softmax_and_no_other_has_any(ids: list[int]) -> None:
    logits_BM = torch.randn(BATCH, EXPERTS, generator=torch.Generator().manual_seed(4))
    weights_BK = make().weigh(logits_BM, torch.tensor(ids))
    for logits_M, weights_K in zip(logits_BM.double(), weights_BK, strict=True):
        held = [float(logits_M[i]) for i in ids]
        best = max(range(len(ids)), key=lambda k: held[k])
        share = exp(held[best]) / sum(exp(score) for score in held)
        wanted = [share if k == best else 0.0 for k in range(len(ids))]
        assert weights_K.tolist() == pytest.approx(wanted, rel=1e-5)


def test_of_equal_scores_the_first_column_wins() -> None:
    weights_BK = make().weigh(torch.zeros(2, EXPERTS), torch.tensor([3, 0]))
    assert weights_BK.tolist() == [[0.5, 0.0], [0.5, 0.0]]


@pytest.mark.parametrize("seed", range(3))
def test_with_a_silent_common_expert_and_mixed_logits_the_output_is_pi_f(seed: int) -> None:
    gate, (read_BD, lots_BM) = make(seed, 1.0).eval(), read_and_lots(seed)
    logits_KBC = torch.randn(EXPERTS, BATCH, 2, generator=torch.Generator().manual_seed(seed + 10))
    with torch.no_grad():
        scores_BM = gate.scores(torch.cat([read_BD, lots_BM], dim=1))
        weights_BK = gate.weigh(scores_BM, torch.arange(EXPERTS))
        both = with_common(logits_KBC, weights_BK, torch.zeros(BATCH, 2))
        got = mix(*both, "logit")
    chosen_B, rows_B = scores_BM.argmax(dim=1), torch.arange(BATCH)
    pi_B1 = torch.softmax(scores_BM, dim=1)[rows_B, chosen_B][:, None]
    torch.testing.assert_close(got, torch.log_softmax(pi_B1 * logits_KBC[chosen_B, rows_B], dim=1))


def test_the_gate_learns_from_the_chosen_experts_output() -> None:
    """The gradient by a sample's scores is `pi_m (1[m = chosen] - pi_chosen) f`-shaped: not zero, and of sum zero."""
    scores_BM = torch.randn(BATCH, EXPERTS, generator=torch.Generator().manual_seed(5)).requires_grad_()
    weights_BK = make().weigh(scores_BM, torch.arange(EXPERTS))
    outputs_BK = torch.randn(BATCH, EXPERTS, generator=torch.Generator().manual_seed(6))
    (gradient_BM,) = torch.autograd.grad((weights_BK * outputs_BK).sum(), scores_BM)
    pi_BM, chosen_B = torch.softmax(scores_BM.detach(), dim=1), scores_BM.detach().argmax(dim=1)
    rows_B = torch.arange(BATCH)
    wanted_BM = -pi_BM * pi_BM[rows_B, chosen_B][:, None]
    wanted_BM[rows_B, chosen_B] += pi_BM[rows_B, chosen_B]
    torch.testing.assert_close(gradient_BM, wanted_BM * outputs_BK[rows_B, chosen_B][:, None])
