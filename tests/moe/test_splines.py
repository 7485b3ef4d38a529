"""Cubic splines against scipy's, and what makes them fit for averaging."""

import numpy as np
import pytest
import torch
from scipy.interpolate import BSpline
from torch.nn.functional import elu, silu

from fedmoe.moe.construction import build_gate
from fedmoe.moe.gate import GateSpec
from fedmoe.moe.splines import KANLinear, cubic_splines
from fedmoe.moe.vectors import load_vector, to_vector

GRIDS = [(3, -1.0, 1.0), (1, 0.0, 1.0), (7, -2.0, 5.0)]


def knots(intervals, low, high):
    step = (high - low) / intervals
    return low + step * np.arange(-3, intervals + 4)


@pytest.mark.parametrize("grid", GRIDS)
def test_they_are_scipys(grid):
    places = knots(*grid)
    assert len(places) == grid[0] + 7
    x = np.linspace(places[0] - 1, places[-1] + 1, 501)
    ours = cubic_splines(torch.from_numpy(x), *grid).numpy()
    assert ours.shape == (501, grid[0] + 3)
    for index, own in enumerate(ours.T):
        theirs = BSpline.basis_element(places[index : index + 5], extrapolate=False)(x)
        np.testing.assert_allclose(own, np.nan_to_num(theirs), atol=1e-12)


@pytest.mark.parametrize("grid", GRIDS)
def test_they_sum_to_one_inside_the_grid_and_are_nothing_outside_their_support(grid):
    places = knots(*grid)
    inside = torch.linspace(grid[1], grid[2], 301)
    torch.testing.assert_close(cubic_splines(inside, *grid).sum(dim=1), torch.ones(301))
    x = torch.linspace(places[0] - 3, places[-1] + 3, 999)
    values = cubic_splines(x, *grid)
    assert (values >= 0).all()
    for index in range(grid[0] + 3):
        beyond = (x < places[index] - 1e-5) | (x > places[index + 4] + 1e-5)
        assert (values[beyond, index] == 0).all()
        assert (values[(x > places[index] + 0.1) & (x < places[index + 4] - 0.1), index] > 0).all()


def test_they_can_follow_any_cubic():
    """Four splines are alive in an interval, and they span its cubics."""
    x = torch.linspace(-1, 1, 200, dtype=torch.float64)
    target = 2 - x + 3 * x**2 - 5 * x**3
    values = cubic_splines(x)
    found = torch.linalg.lstsq(values, target[:, None]).solution
    torch.testing.assert_close((values @ found)[:, 0], target)


@pytest.mark.parametrize("seed", range(3))
def test_the_average_of_two_clients_coefficients_is_the_average_of_their_functions(seed):
    torch.manual_seed(seed)
    one, two, both = (KANLinear(4, 3, silu).double() for _ in range(3))
    with torch.no_grad():
        for mean, a, b in zip(both.parameters(), one.parameters(), two.parameters(), strict=True):
            mean.copy_(0.3 * a + 0.7 * b)
    x = 2 * torch.randn(50, 4, dtype=torch.float64)
    torch.testing.assert_close(both(x), 0.3 * one(x) + 0.7 * two(x))


@pytest.mark.parametrize("base", [elu, silu])
def test_a_layer_is_its_formula(base):
    torch.manual_seed(0)
    layer = KANLinear(3, 2, base)
    x = torch.randn(20, 3)
    curves = layer.spline_UZ.view(2, 3, 6)
    expected = [
        [
            sum(
                layer.base_UD[u, d] * base(row[d]) + (curves[u, d] * cubic_splines(row[d])).sum() for d in range(3)
            ).item()
            for u in range(2)
        ]
        for row in x
    ]
    torch.testing.assert_close(layer(x), torch.tensor(expected))


@pytest.mark.parametrize("seed", range(3))
def test_gradients_reach_all_coefficients(seed):
    torch.manual_seed(seed)
    layer = KANLinear(4, 3, silu)
    layer(torch.rand(400, 4) * 2 - 1).square().sum().backward()
    for parameter in layer.parameters():
        assert (parameter.grad.abs() > 0).all()


def test_outside_grid_and_margins_only_the_base_is_left():
    layer = KANLinear(2, 2, silu)
    x = torch.tensor([[4.0, -9.0]])
    torch.testing.assert_close(layer(x), silu(x) @ layer.base_UD.T)


@pytest.mark.parametrize("grid", [(0, -1.0, 1.0), (3, 1.0, 1.0)])
def test_a_grid_that_is_none_is_refused(grid):
    with pytest.raises(ValueError, match=r"interval.*hint"):
        cubic_splines(torch.zeros(1), *grid)


def by_formula(layer, x, base):
    return base(x) @ layer.base_UD.T + cubic_splines(x).flatten(1) @ layer.spline_UZ.T


@pytest.mark.parametrize("name", ["grn", "grkan"])
@pytest.mark.parametrize("seed", range(3))
def test_a_gated_residual_is_its_formula(name, seed):
    gate = build_gate(name, GateSpec(in_features=4, num_experts=3, hidden=5), seed)
    torch.nn.init.uniform_(gate.scale_D, 0.5, 2, generator=torch.Generator().manual_seed(seed))
    x = torch.randn(30, 4, generator=torch.Generator().manual_seed(seed))
    h = torch.relu((gate.scale_D * x) @ gate.hidden.weight.T + gate.hidden.bias)
    first, second = gate.inner[0], gate.inner[-1]
    u = by_formula(second, by_formula(first, h, elu), silu) if name == "grkan" else second(elu(first(h)))
    total = gate.skip(h) + gate.value(u) / (1 + (-gate.valve(u)).exp())
    centred = total - total.mean(dim=1, keepdim=True)
    expected = centred / (centred.square().mean(dim=1, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(gate.scores(x), expected)
    assert (gate.scores(x).abs() <= 2**0.5 + 1e-4).all()


def test_its_grid_does_not_travel():
    """All that a client sends of the gate is learnt: no value of the vector is a knot."""
    gate = build_gate("grkan", GateSpec(in_features=4, num_experts=3, hidden=5), 0)
    assert len(to_vector(gate)) == sum(p.numel() for p in gate.parameters() if p.requires_grad)
    x = torch.randn(9, 4)
    before = gate.scores(x)
    load_vector(gate, to_vector(gate))
    assert torch.equal(gate.scores(x), before)
