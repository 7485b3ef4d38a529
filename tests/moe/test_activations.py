"""Laws of activations whose gate may leave 0 and 1."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import gelu, relu, silu

from fedmoe.errors import SettingsError
from fedmoe.moe.activations import ACTIVATIONS, arctan_gate, logistic_gate, make_activation, normal_gate
from fedmoe.moe.expert import ExpertSpec
from fedmoe.moe.experts.expanded import ExpandedExpert

EXPANDED = [name for name, form in ACTIVATIONS.items() if form.expanded]
GATES = [arctan_gate, normal_gate, logistic_gate]


def numbers(seed: int, width: int = 12) -> Tensor:
    return 4 * torch.randn(50, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def at_range(name: str, value: float) -> torch.nn.Module:
    activation = make_activation(name).double()
    with torch.no_grad():
        activation.range.fill_(value)
    return activation


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", EXPANDED)
def test_a_range_of_0_is_the_activation_that_is_expanded(name: str, seed: int) -> None:
    x = numbers(seed)
    for dtype in (torch.float32, torch.float64):
        expanded, plain = make_activation(name).to(dtype), make_activation(name.removeprefix("x"))
        assert plain.range is None
        assert expanded.range is not None
        assert expanded.range.shape == ()
        assert torch.equal(expanded(x.to(dtype)), plain(x.to(dtype)))


@pytest.mark.parametrize(("name", "torchs"), [("relu", relu), ("gelu", gelu), ("silu", silu)])
def test_plain_ones_are_torchs_with_their_gradients(name: str, torchs) -> None:  # type: ignore[no-untyped-def]
    x = numbers(2).requires_grad_()
    torch.testing.assert_close(make_activation(name)(x), torchs(x))
    ours, theirs = (torch.autograd.grad(f(x).sum(), x)[0] for f in (make_activation(name), torchs))
    torch.testing.assert_close(ours, theirs)


def test_atlu_by_its_formula_and_its_slope_only_rises() -> None:
    x = torch.linspace(-30, 30, 4001, dtype=torch.float64, requires_grad=True)
    y = make_activation("xatlu").double()(x)
    torch.testing.assert_close(y, x * (torch.arctan(x) + torch.pi / 2) / torch.pi)
    (slope,) = torch.autograd.grad(y.sum(), x)
    assert (slope.diff() > 0).all()
    for other in ("xgelu", "xsilu"):
        (slope,) = torch.autograd.grad(make_activation(other).double()(x).sum(), x)
        assert (slope.diff() < 0).any(), "theirs falls where it is above 1, and where it comes back to 0"


@pytest.mark.parametrize(("gate", "distance"), [(arctan_gate, 3.17e-2), (logistic_gate, 4.54e-5)])
def test_how_far_from_1_a_gate_is_at_10(gate, distance: float) -> None:  # type: ignore[no-untyped-def]
    assert float(1 - gate(torch.tensor(10.0, dtype=torch.float64))) == pytest.approx(distance, rel=2e-3)


@pytest.mark.parametrize("value", [-0.3, 0.0, 0.5, 2.0])
@pytest.mark.parametrize("name", EXPANDED)
def test_the_gate_spans_its_range_and_is_symmetric(name: str, value: float) -> None:
    activation = at_range(name, value)
    x = torch.linspace(-40, 40, 801, dtype=torch.float64)
    gate = activation.gate(x)
    low, high = min(-value, 1 + value), max(-value, 1 + value)
    assert low - 1e-12 <= float(gate.detach().min()) <= float(gate.detach().max()) <= high + 1e-12
    ends = activation.gate(torch.tensor([-1e9, 1e9], dtype=torch.float64))
    torch.testing.assert_close(ends, torch.tensor([-value, 1 + value], dtype=torch.float64))
    torch.testing.assert_close(gate + gate.flip(0), torch.ones_like(gate))


@pytest.mark.parametrize("gate", GATES)
def test_gates_rise_from_0_to_1_through_a_half(gate) -> None:  # type: ignore[no-untyped-def]
    values = gate(torch.linspace(-5, 5, 201, dtype=torch.float64))
    assert (values.diff() > 0).all()
    assert ((values > 0) & (values < 1)).all()
    assert float(gate(torch.zeros((), dtype=torch.float64))) == 0.5


@pytest.mark.parametrize("value", [0.0, 0.7])
@pytest.mark.parametrize("name", [name for name in ACTIVATIONS if ACTIVATIONS[name].halves])
def test_a_gated_linear_unit_is_its_formula_number_by_number(name: str, value: float) -> None:
    activation = at_range(name, value) if name in EXPANDED else make_activation(name)
    both = numbers(3)
    out, half = activation(both).detach(), both.shape[1] // 2
    assert out.shape == (50, half)
    form, ends = ACTIVATIONS[name], value if name in EXPANDED else 0.0
    for row, column in ((0, 0), (7, half - 1), (49, 2)):
        x, y = both[row, column], both[row, half + column]
        wanted = (float(form.gate(x)) * (1 + 2 * ends) - ends) * float(y) * (float(x) if form.order == 2 else 1.0)
        assert float(out[row, column]) == pytest.approx(wanted)


@pytest.mark.parametrize("name", EXPANDED)
def test_the_ranges_gradient_is_that_of_differences(name: str) -> None:
    activation, x = at_range(name, 0.2), numbers(4)
    activation(x).square().mean().backward()
    step = 1e-6
    ahead, behind = (float(at_range(name, 0.2 + s)(x).detach().square().mean()) for s in (step, -step))
    assert float(activation.range.grad) == pytest.approx((ahead - behind) / (2 * step), rel=1e-6)


def test_an_unknown_activation_is_refused_with_the_nearest() -> None:
    spec = ExpertSpec(in_shape=(1, 2, 2), num_classes=2)
    with pytest.raises(SettingsError, match=r"experts\.expanded\.activation .*'xatul'; hint: did you mean 'xatlu'"):
        ExpandedExpert(spec, activation="xatul")


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_an_expert_of_every_activation_is_head_of_activation_of_body(activation: str) -> None:
    expert = ExpandedExpert(ExpertSpec(in_shape=(2, 3, 1), num_classes=4, width=5), activation=activation)
    x = torch.randn(7, 2, 3, 1, generator=torch.Generator().manual_seed(0))
    hidden = x.flatten(1) @ expert.body[1].weight.T + expert.body[1].bias
    assert hidden.shape[1] == (10 if ACTIVATIONS[activation].halves else 5)
    torch.testing.assert_close(expert(x), expert.head(make_activation(activation)(hidden)))
    assert ("activation.range" in dict(expert.named_parameters())) == ACTIVATIONS[activation].expanded
