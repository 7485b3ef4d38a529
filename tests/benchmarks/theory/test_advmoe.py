"""AdvMoE's experiment: what its rows are, and that its loss makes a mixture harder to attack."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from benchmarks.theory.advmoe import EXPERIMENT, TRAINING, settings_of
from fedmoe.data.contracts import LoadRequest
from fedmoe.data.datasets.digits import load_digits
from fedmoe.evaluation.robust import Target, robust_figures
from fedmoe.evaluation.serving import Serving
from fedmoe.federation.job import Term
from fedmoe.moe.construction import build_expert, build_gate
from fedmoe.moe.expert import ExpertSpec
from fedmoe.moe.gate import GateSpec
from fedmoe.training.attack import Attack, Span
from fedmoe.training.objective import Batch, LocalModel, load_objective
from fedmoe.training.samples import ClientSamples

SHAPE, STEPS, EPS = (1, 8, 8), 120, 0.1
TRADES = Term("trades", {"eps": EPS, "step": 5 / 8 * EPS, "beta": 2.0, "routing": 1.0})


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDMOE_HOME", str(tmp_path / "home"))


def samples(first: int, last: int) -> ClientSamples:
    data = load_digits(LoadRequest(root=None, seed=0, download_timeout=1.0))
    images, y = torch.from_numpy(data.x_NCHW[first:last]), torch.from_numpy(data.y_N[first:last])
    mean, std = torch.full((1, 1, 1), 78.0), torch.full((1, 1, 1), 96.0)
    own = ClientSamples(images, y, torch.empty(len(y), 0), mean, std)
    return replace(own, gate_input=own.inputs(slice(None)).flatten(1))


def trained(seed: int, *terms: Term) -> dict[str, float]:
    """Two experts and a router, trained on 600 digits by this loss; accuracy under attack on 150 others."""
    own, test = samples(0, 600), samples(600, 750)
    span = Span(-own.mean / own.std, (255 - own.mean) / own.std)
    spec = ExpertSpec(in_shape=SHAPE, num_classes=10, width=4)
    experts = [build_expert("cnn", spec, 10 * seed + i) for i in range(2)]
    gate = build_gate("conv_router", GateSpec(in_features=64, num_experts=2, hidden=1, in_shape=SHAPE), seed)
    parameters = [*nn.ModuleList(experts).parameters(), *gate.parameters()]
    model = LocalModel(
        experts=lambda x_BCHW: torch.stack([expert(x_BCHW) for expert in experts]),
        gate=gate,
        expert_ids_K=torch.arange(2),
        num_experts=2,
        trained=parameters,
        start=list,
        log_prior_C=None,
        span=span,
    )
    loss, sgd = load_objective(terms), torch.optim.SGD(parameters, 0.1, 0.9)
    stream = torch.Generator().manual_seed(seed)
    for _ in range(STEPS):
        rows = torch.randint(len(own), (64,), generator=stream)
        sgd.zero_grad()
        loss(model, Batch(own.inputs(rows), own.y[rows], own.gate_input[rows])).backward()
        sgd.step()
    target = Target(gate=gate, experts=experts, held=(0, 1), serving=Serving(top_k=2), num_experts=2)
    found = robust_figures(target, test, Attack(EPS, EPS / 4, 10), span, torch.zeros(len(test), *SHAPE))
    clean = robust_figures(target, test, Attack(0, 0, 1), span, torch.zeros(len(test), *SHAPE))
    return found | {"clean": clean["zero_shot"]}


@pytest.mark.parametrize("seed", range(2))
def test_the_loss_makes_a_mixture_harder_to_attack(seed):
    plain, adversarial = trained(seed, Term("mixture")), trained(seed, Term("mixture"), TRADES)
    assert plain["clean"] > 0.75
    assert adversarial["clean"] > 0.75
    assert adversarial["zero_shot"] > plain["zero_shot"] + 0.1
    assert adversarial["mixture"] > plain["mixture"] + 0.1


@pytest.mark.parametrize("row", ["digits: plain", "digits: alternating"])
def test_a_run_of_a_few_rounds_is_measured(row):
    figures = EXPERIMENT.measure(row, 1, True)
    assert set(EXPERIMENT.columns) <= set(figures)
    assert all(0 <= figures[name] <= 100 for name in EXPERIMENT.columns)
    assert figures["robust"] <= figures["zero_shot"]


def test_the_rows_differ_in_training_alone():
    common = [
        {key: value for key, value in settings_of(f"digits: {training}", 0).items() if key not in TRAINING[training]}
        for training in TRAINING
    ]
    assert all(own == common[0] for own in common)
    assert EXPERIMENT.measure("Fashion-MNIST: plain", 7, True) == {}
