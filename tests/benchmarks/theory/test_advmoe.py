"""AdvMoE's experiment: what its rows are, and that its loss makes a mixture harder to attack."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from benchmarks.theory.advmoe import EXPERIMENT, FEW, TRAINING, settings_of
from fedmoe.data.contracts import LoadRequest
from fedmoe.data.datasets.digits import load_digits
from fedmoe.evaluation.robust import Target, robust_figures
from fedmoe.evaluation.serving import Serving
from fedmoe.federation.job import Term
from fedmoe.flower.methods import build_strategy
from fedmoe.moe.construction import build_expert, build_gate
from fedmoe.moe.expert import ExpertSpec
from fedmoe.moe.gate import GateSpec
from fedmoe.settings import from_flat
from fedmoe.training.attack import Attack, Span
from fedmoe.training.objective import Batch, LocalModel, load_objective
from fedmoe.training.samples import ClientSamples

SHAPE, STEPS, EPS = (1, 8, 8), 120, 0.1


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDMOE_HOME", str(tmp_path / "home"))


def samples(first: int, last: int) -> ClientSamples:
    data = load_digits(LoadRequest(root=None, seed=0, download_timeout=1.0))
    images, y = torch.from_numpy(data.x_NCHW[first:last]), torch.from_numpy(data.y_N[first:last])
    mean, std = torch.full((1, 1, 1), 78.0), torch.full((1, 1, 1), 96.0)
    own = ClientSamples(images, y, torch.empty(len(y), 0), mean, std)
    return replace(own, gate_input=own.inputs(slice(None)).flatten(1))


def trained(seed: int, *turns: tuple[Term, ...]) -> dict[str, float]:
    """Two experts and a router, trained on 600 digits; accuracy under attack on 150 others.

    Args:
        seed: of all.
        turns: one loss for all parameters; or two, of which the first trains the experts, the second the router.
    """
    own, test = samples(0, 600), samples(600, 750)
    span = Span(-own.mean / own.std, (255 - own.mean) / own.std)
    spec = ExpertSpec(in_shape=SHAPE, num_classes=10, width=4)
    experts = [build_expert("cnn", spec, 10 * seed + i) for i in range(2)]
    gate = build_gate("conv_router", GateSpec(in_features=64, num_experts=2, hidden=1, in_shape=SHAPE), seed)
    parts = [list(nn.ModuleList(experts).parameters()), list(gate.parameters())]
    model = LocalModel(
        experts=lambda x_BCHW: torch.stack([expert(x_BCHW) for expert in experts]),
        gate=gate,
        expert_ids_K=torch.arange(2),
        num_experts=2,
        trained=[*parts[0], *parts[1]],
        start=list,
        log_prior_C=None,
        span=span,
    )
    moved = parts if len(turns) == 2 else [model.trained]
    steps = [(load_objective(terms), torch.optim.SGD(own, 0.1, 0.9)) for terms, own in zip(turns, moved, strict=True)]
    stream = torch.Generator().manual_seed(seed)
    for _ in range(STEPS):
        rows = torch.randint(len(own), (64,), generator=stream)
        for loss, sgd in steps:
            gate.zero_grad()
            nn.ModuleList(experts).zero_grad()
            loss(model, Batch(own.inputs(rows), own.y[rows], own.gate_input[rows])).backward()
            sgd.step()
    target = Target(gate=gate, experts=experts, held=(0, 1), serving=Serving(top_k=2), num_experts=2)
    found = robust_figures(target, test, Attack(EPS, EPS / 4, 10), span, torch.zeros(len(test), *SHAPE))
    clean = robust_figures(target, test, Attack(0, 0, 1), span, torch.zeros(len(test), *SHAPE))
    return found | {"clean": clean["zero_shot"]}


def trades(routing: float, aim: str = "both") -> Term:
    return Term("trades", {"eps": EPS, "step": 5 / 8 * EPS, "beta": 2.0, "routing": routing, "aim": aim})


@pytest.mark.parametrize("seed", range(2))
def test_adversarial_training_makes_a_mixture_harder_to_attack_and_its_router_steadier(seed):
    mixture = Term("mixture")
    plain, alone = trained(seed, (mixture,)), trained(seed, (mixture, trades(0.0, "output")))
    joint = trained(seed, (mixture, trades(1.0)))
    in_turn = trained(seed, (mixture, trades(0.0)), (mixture, trades(6.0)))
    for found in (alone, joint, in_turn):
        assert min(found["clean"], plain["clean"]) > 0.75
        assert found["zero_shot"] > plain["zero_shot"] + 0.1
        assert found["mixture"] > plain["mixture"] + 0.05
    assert in_turn["flips"] < 0.6 * alone["flips"]


@pytest.mark.parametrize("row", ["digits: plain", "digits: alternating"])
def test_a_run_of_a_few_rounds_is_measured(row):
    figures = EXPERIMENT.measure(row, 1, True)
    assert set(EXPERIMENT.columns) <= set(figures)
    assert all(0 <= figures[name] <= 100 for name in EXPERIMENT.columns)
    assert figures["robust"] <= figures["zero_shot"]


@pytest.mark.parametrize("training", ["joint, output alone", "joint", "alternating"])
def test_the_small_version_is_attacked_too(training):
    strategy = build_strategy("advmoe", from_flat(settings_of(f"digits: {training}", 0) | FEW))
    strategy.anchors = dict
    jobs = [strategy.job(round_num, 3, (0, 2)) for round_num in (1, 2, 3)]
    told = [[term.name for loss in (job.objective, *(t.objective for t in job.turns)) for term in loss] for job in jobs]
    assert ["trades" in terms for terms in told] == [False, True, True]


def test_the_rows_differ_in_training_alone():
    common = [
        {key: value for key, value in settings_of(f"digits: {training}", 0).items() if key not in TRAINING[training]}
        for training in TRAINING
    ]
    assert all(own == common[0] for own in common)
    assert EXPERIMENT.measure("Fashion-MNIST: plain", 7, True) == {}
