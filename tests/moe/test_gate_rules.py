"""The rules of single gates, held against their formulas."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from fedmoe.errors import SettingsError
from fedmoe.moe.construction import build_gate
from fedmoe.moe.gate import Gate, GateSpec
from fedmoe.moe.gates.gumbel import GumbelGate
from fedmoe.training.samples import Lots

EXPERTS, WIDTH = 6, 5


def gate_of(name: str, seed: int = 0, experts: int = EXPERTS, **arguments: object) -> Gate:
    spec = GateSpec(in_features=WIDTH, num_experts=experts, hidden=8, arguments=arguments)
    return build_gate(name, spec, seed)


def inputs(seed: int, size: int) -> Tensor:
    return 2 * torch.randn(size, WIDTH, generator=torch.Generator().manual_seed(seed))


def with_lots(gate: Gate, read_BD: Tensor, seed: int) -> Tensor:
    return torch.cat([read_BD, Lots(seed, gate.spec.num_experts, gate.draws).numbers(len(read_BD))], dim=1)


@pytest.mark.parametrize("common", [0.0, 0.7])
@pytest.mark.parametrize("seed", range(5))
def test_a_rectified_gate_leaves_experts_and_whole_rows_out(seed: int, common: float) -> None:
    gate, x_BD = gate_of("relu", seed, bias=-0.4, common=common), inputs(seed, 400)
    logits_BM, held_K = gate.scores(x_BD), torch.tensor([4, 1, 2])
    weights_BK = gate.weigh(logits_BM, held_K)
    positive_BK = np.maximum(logits_BM[:, held_K].detach().numpy(), 0)
    sums_B = positive_BK.sum(axis=1)
    for own_K, weights_K, whole in zip(positive_BK, weights_BK.detach().numpy(), sums_B, strict=True):
        np.testing.assert_allclose(weights_K, own_K / (common + whole) if whole else 0 * own_K, rtol=1e-5)
    empty = (weights_BK == 0).all(dim=1)
    assert 0 < int(empty.sum()) < len(empty), "some samples are nobody's, and not all"


@pytest.mark.parametrize("seed", range(3))
def test_gumbel_weights_are_the_mean_of_relaxed_draws(seed: int) -> None:
    gate = gate_of("gumbel", seed, temperature=0.7, samples=3).eval()
    read_BD = inputs(seed, 50)
    x_BX = with_lots(gate, read_BD, seed)
    z_BM = gate.layers(read_BD).detach().numpy()
    noise_BSM = -np.log(-np.log(x_BX[:, WIDTH:].numpy().reshape(50, 3, EXPERTS)))
    powers_BSM = np.exp((z_BM[:, None] + noise_BSM) / 0.7)
    means_BM = (powers_BSM / powers_BSM.sum(axis=2, keepdims=True)).mean(axis=1)
    np.testing.assert_allclose(torch.softmax(gate.scores(x_BX), dim=1).detach().numpy(), means_BM, rtol=1e-4)
    single = powers_BSM[:, 0] / powers_BSM[:, 0].sum(axis=1, keepdims=True)
    np.testing.assert_allclose(torch.softmax(gate.train().scores(x_BX), dim=1).detach().numpy(), single, rtol=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_the_variance_of_gumbel_weights_falls_with_the_draws(seed: int) -> None:
    read_BD, variances = inputs(seed, 20), []
    for samples in (1, 16):
        gate = gate_of("gumbel", seed, samples=samples).eval()
        with torch.no_grad():
            found = [torch.softmax(gate.scores(with_lots(gate, read_BD, s)), dim=1) for s in range(400)]
        variances.append(float(torch.stack(found).var(dim=0).mean()))
    assert 13 < variances[0] / variances[1] < 19


@pytest.mark.parametrize("seed", range(3))
def test_cold_gumbel_draws_are_one_hot_and_fall_as_the_softmax_says(seed: int) -> None:
    gate, read_BD = gate_of("gumbel", seed, temperature=1e-3, samples=4000).eval(), inputs(seed, 8)
    one_BM = torch.softmax(gate.train().scores(with_lots(gate, read_BD, seed)), dim=1)
    assert (one_BM.max(dim=1).values > 0.999).all()
    shares_BM = torch.softmax(gate.eval().scores(with_lots(gate, read_BD, seed)), dim=1)
    torch.testing.assert_close(shares_BM, torch.softmax(gate.layers(read_BD), dim=1), rtol=0, atol=0.035)


def spreads_of(temperature: float, samples: int, seed: int, times: int = 1, experts: int = EXPERTS) -> Tensor:
    gate = gate_of("gumbel", seed, experts, temperature=temperature, samples=samples).eval()
    assert isinstance(gate, GumbelGate)
    with torch.no_grad():
        return torch.stack([gate.spread(with_lots(gate, inputs(seed, 20), 7 * s)) for s in range(times)])


@pytest.mark.parametrize("seed", range(3))
def test_the_spread_of_gumbel_draws_is_the_variance_of_the_mean_times_the_draws(seed: int) -> None:
    gate, read_BD = gate_of("gumbel", seed, samples=16).eval(), inputs(seed, 20)
    with torch.no_grad():
        found = torch.stack([torch.softmax(gate.scores(with_lots(gate, read_BD, s)), dim=1) for s in range(600)])
    served_B = found.var(dim=0).sum(dim=1)
    torch.testing.assert_close(spreads_of(1.0, 4000, seed)[0], 16 * served_B, rtol=0.2, atol=0)


@pytest.mark.parametrize("seed", range(3))
def test_more_draws_tell_the_same_spread_more_exactly(seed: int) -> None:
    few, many = spreads_of(1.0, 2, seed, 400), spreads_of(1.0, 50, seed, 400)
    assert float(few.mean()) == pytest.approx(float(many.mean()), rel=0.05)
    assert float(many.var(dim=0).mean()) < float(few.var(dim=0).mean()) / 10


@pytest.mark.parametrize("seed", range(3))
def test_the_spread_goes_from_nothing_to_that_of_a_lottery_as_the_temperature_falls(seed: int) -> None:
    spreads = [spreads_of(temperature, 4000, seed)[0] for temperature in (1e3, 2.0, 0.5, 1e-3)]
    gate = gate_of("gumbel", seed)
    p_BM = torch.softmax(gate.layers(inputs(seed, 20)), dim=1).detach()
    assert (spreads[0] < 1e-4).all()
    assert all((low < high).all() for low, high in pairwise(spreads))
    torch.testing.assert_close(spreads[-1], 1 - p_BM.square().sum(dim=1), rtol=0, atol=0.03)
    assert (spreads_of(1.0, 10, seed, experts=1) < 1e-10).all(), "one expert has no rival"


def test_one_draw_has_no_spread() -> None:
    with pytest.raises(ValueError, match=r"a spread needs at least 2 draws, got gate.gumbel.samples=1"):
        spreads_of(1.0, 1, 0)


@pytest.mark.parametrize("seed", range(5))
def test_adaptive_weights_are_what_the_formula_says(seed: int) -> None:
    gate, x_BD = gate_of("adaptive_threshold", seed, largest=2.0).double(), inputs(seed, 300).double()
    p_BM = torch.softmax(gate.experts(x_BD), dim=1)
    tau_B1 = 2.0 / EXPERTS * torch.sigmoid(gate.threshold(x_BD))
    above_BM = (p_BM - tau_B1).clamp_min(0)
    expected_BM = above_BM / above_BM.sum(dim=1, keepdim=True)
    weights_BM = gate.weigh(gate.scores(x_BD), torch.arange(EXPERTS))
    some = above_BM.sum(dim=1) > 0
    assert some.any()
    torch.testing.assert_close(weights_BM[some], expected_BM[some])
    assert not weights_BM[~some].any()
    torch.testing.assert_close(torch.softmax(gate.scores(x_BD), dim=1), p_BM)


@pytest.mark.parametrize("held", [[0, 1, 2, 3, 4, 5], [3, 1], [5]])
@pytest.mark.parametrize("seed", range(5))
def test_up_to_one_over_m_each_sample_has_an_expert_and_fewer_the_higher_the_threshold(
    seed: int, held: list[int]
) -> None:
    x_BD, counts = 3 * inputs(seed, 500), []
    for largest in (0.5, 1.0, 2.0, float(EXPERTS)):
        gate = gate_of("adaptive_threshold", seed, largest=largest)
        weights_BK = gate.weigh(gate.scores(x_BD), torch.tensor(held))
        counts.append(float((weights_BK > 0).sum(dim=1).double().mean()))
        if largest <= 1:
            assert (weights_BK > 0).any(dim=1).all()
            torch.testing.assert_close(weights_BK.sum(dim=1), torch.ones(500))
    assert counts == sorted(counts, reverse=True)
    assert len(held) == 1 or counts[0] > counts[-1]


def test_the_threshold_takes_a_gradient() -> None:
    gate, x_BD = gate_of("adaptive_threshold", 1), inputs(1, 60)
    gate.weigh(gate.scores(x_BD), torch.tensor([0, 2, 3]))[:, 0].sum().backward()
    assert gate.threshold.weight.grad.abs().sum() > 0
    assert torch.isfinite(gate.experts.weight.grad).all()


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("relu", {"common": -0.1}),
        ("noisy_top1", {"noise": -0.1}),
        ("gumbel", {"temperature": 0.0}),
        ("gumbel", {"samples": 0}),
        ("adaptive_threshold", {"largest": 0.0}),
        ("adaptive_threshold", {"largest": EXPERTS + 0.1}),
    ],
)
def test_arguments_out_of_range_are_refused(name: str, arguments: dict[str, object]) -> None:
    with pytest.raises(SettingsError, match=f"gate.{name}.{next(iter(arguments))} must"):
        gate_of(name, **arguments)
