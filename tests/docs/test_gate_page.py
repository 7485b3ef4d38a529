"""The gate of the page "Write a gate" keeps the page's laws, and does what the page says."""

import pytest
import torch

from fedmoe.errors import SettingsError
from fedmoe.moe.construction import build_gate
from fedmoe.moe.gate import GateSpec
from fedmoe.moe.vectors import to_vector, vector_size
from fedmoe.training.samples import Lots
from tests.docs.test_examples import PAGES, files_of

BATCH, WIDTH, POOL = 50, 6, 4
HELD = torch.tensor([3, 1])


@pytest.fixture
def reference(tmp_path):
    file = tmp_path / "points_gate.py"
    file.write_text(files_of(PAGES[2])["points_gate.py"])
    return f"{file}:Points"


def gate_of(reference, seed=0, **arguments):
    return build_gate(reference, GateSpec(in_features=WIDTH, num_experts=POOL, hidden=1, arguments=arguments), seed)


def inputs(seed, gate, scale=1.0):
    read = scale * torch.randn(BATCH, WIDTH, generator=torch.Generator().manual_seed(seed))
    return torch.cat([read, Lots(seed, POOL, gate.draws).numbers(BATCH)], dim=1)


@pytest.mark.parametrize("seed", range(3))
def test_it_keeps_the_laws(reference, seed):
    gate = gate_of(reference, seed)
    x = inputs(seed, gate)
    weights = gate.weigh(gate.scores(x), HELD)
    assert (weights >= 0).all()
    assert (weights.sum(dim=1) < 1).all()
    order = torch.randperm(BATCH)
    torch.testing.assert_close(gate.weigh(gate.scores(x[order]), HELD), weights[order])
    weights.sum().backward()
    assert (gate.points_MD.grad[HELD].abs().sum(dim=1) > 0).all()
    assert vector_size(gate) == POOL * WIDTH == len(to_vector(gate))
    together = torch.func.vmap(lambda own: gate.weigh(gate.scores(own), HELD))(x.view(5, 10, -1))
    torch.testing.assert_close(together.view(BATCH, 2), weights)


@pytest.mark.parametrize("reach", [0.5, 2.0])
def test_its_weights_are_the_kernels_of_its_docstring(reference, reach):
    gate = gate_of(reference, reach=reach).eval()
    x = inputs(1, gate)
    for row, own in zip(x[:, :WIDTH], gate.weigh(gate.scores(x), HELD), strict=True):
        kernels = [1 / (1 + (row - gate.points_MD[m]).square().mean()) for m in HELD]
        total = 1 / (1 + reach**2) + sum(kernels)
        torch.testing.assert_close(own, torch.stack(kernels) / total)
    far = gate.weigh(gate.scores(inputs(1, gate, scale=1e4)), HELD)
    assert far.max() < 1e-5, "far from all points the common expert answers"


def test_an_expert_is_left_out_now_and_then_and_in_training_alone(reference):
    gate = gate_of(reference, leave_out=0.3)
    x = torch.cat([inputs(seed, gate) for seed in range(40)])
    out = gate.train().scores(x) < gate.eval().scores(x) - 10
    assert abs(float(out.float().mean()) - 0.3) < 0.02


def test_its_arguments_have_a_range(reference):
    with pytest.raises(SettingsError, match="hint"):
        gate_of(reference, reach=0.0)
