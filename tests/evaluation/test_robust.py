"""Accuracy under attack: what it is without one, that it hurts, and whom it depends on."""

from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from torch import nn

from fedmoe.errors import SettingsError
from fedmoe.evaluation.robust import Ground, Target, robust_figures, under_attack
from fedmoe.evaluation.serving import Serving
from fedmoe.evaluation.zero_shot import ClientResult, serve_clients
from fedmoe.flower.plugin_check import check_plugins
from fedmoe.moe.construction import build_expert, build_gate
from fedmoe.moe.expert import Expert, ExpertSpec
from fedmoe.moe.gate import Gate, GateSpec
from fedmoe.settings import EvaluateSettings
from fedmoe.training.attack import Attack, Span
from fedmoe.training.sample_store import SampleStore
from fedmoe.training.samples import ClientSamples
from tests.small import rounds_of, run_small, small_config, small_settings

SHAPE, CLASSES, POOL, SIZE = (1, 4, 4), 4, 5, 150  # more than are attacked at once
MEAN, STD = torch.full((1, 1, 1), 128.0), torch.full((1, 1, 1), 60.0)
SPAN = Span((0 - MEAN) / STD, (255 - MEAN) / STD)
STRONG, NONE = Attack(0.4, 0.1, 10), Attack(0.0, 0.0, 10)
SERVINGS = {
    "best": Serving(top_k=3),
    "mixture": Serving(top_k=3, answer="mixture", output="logit"),
    "one": Serving(top_k=1),
    "confidence": Serving(top_k=3, by="confidence"),
}


@torch.no_grad()
def lively(module: nn.Module) -> nn.Module:
    """Returns it with weights three times as large: what is born hardly looks at its input."""
    for parameter in module.parameters():
        if parameter.dim() > 1:
            parameter.mul_(3)
    return module.eval()


def gate_of(name: str, seed: int, width: int = 16) -> Gate:
    shape = SHAPE if width == 16 else None
    gate = build_gate(name, GateSpec(in_features=width, num_experts=POOL, hidden=6, in_shape=shape), seed)
    return cast(Gate, lively(gate))


def pool(seed: int) -> list[Expert]:
    spec = ExpertSpec(in_shape=SHAPE, num_classes=CLASSES, width=6)
    return [cast(Expert, lively(build_expert("cnn", spec, 10 * seed + i))) for i in range(POOL)]


def samples_of(seed: int, size: int = SIZE) -> ClientSamples:
    stream = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (size, *SHAPE), generator=stream).to(torch.uint8)
    read_BD = ((images.float() - MEAN) / STD).flatten(1)
    return ClientSamples(images, torch.randint(CLASSES, (size,), generator=stream), read_BD, MEAN, STD)


def served(samples: ClientSamples, gate: Gate | None, experts: list[Expert], serving: Serving) -> ClientResult:
    prior = torch.full((CLASSES,), 1 / CLASSES, dtype=torch.float64)
    ties = [np.random.default_rng(0)]
    return serve_clients(gate, lambda i: experts[i], POOL, [samples], serving, prior, ties)[0]


def figures(seed: int, serving: Serving, attack: Attack, gate: str = "conv_router") -> tuple[dict, ClientResult]:
    router = None if serving.by == "confidence" else gate_of(gate, seed)
    experts, samples = pool(seed), samples_of(seed)
    result = served(samples, router, experts, serving)
    target = Target(
        gate=router,
        experts=[experts[i] for i in result.experts],
        held=result.experts,
        serving=serving,
        num_experts=POOL,
        common=None,
    )
    start = 2 * torch.rand(SIZE, *SHAPE, generator=torch.Generator().manual_seed(seed)) - 1
    return robust_figures(target, samples, attack, SPAN, start), result


@pytest.mark.parametrize("kind", SERVINGS)
@pytest.mark.parametrize("seed", range(2))
def test_without_a_step_robust_accuracy_is_accuracy(kind: str, seed: int) -> None:
    found, result = figures(seed, SERVINGS[kind], NONE)
    ways = {name for name in result.accuracies if not name.endswith("_em")}
    assert set(found) == {*ways, "flips"}
    assert found["flips"] == 0
    assert {name: found[name] for name in ways} == pytest.approx({name: result.accuracies[name] for name in ways})


@pytest.mark.parametrize("kind", SERVINGS)
@pytest.mark.parametrize("seed", range(2))
def test_an_attack_costs_accuracy_and_moves_samples_to_other_experts(kind: str, seed: int) -> None:
    found, result = figures(seed, SERVINGS[kind], STRONG)
    for name in set(found) - {"flips"}:
        assert found[name] < result.accuracies[name] - 0.1
    assert (found["flips"] > 0) == (kind != "one")


def test_more_steps_and_more_room_hurt_more() -> None:
    accuracies = [
        figures(1, SERVINGS["best"], attack)[0]["zero_shot"] for attack in (NONE, Attack(0.1, 0.03, 1), STRONG)
    ]
    assert accuracies == sorted(accuracies, reverse=True)


@pytest.mark.parametrize("seed", range(3))
def test_the_choice_of_the_expert_is_attacked_too(seed: int) -> None:
    """Experts that ignore the image and always name one class: only another choice makes an answer wrong."""
    experts = pool(seed)
    for number, expert in enumerate(experts):
        with torch.no_grad():
            expert.head.weight.zero_()
            expert.head.bias.copy_(5.0 * torch.eye(CLASSES)[number % CLASSES])
    router, samples = gate_of("conv_router", seed), samples_of(seed)
    scores = router.scores(samples.gate_input)[:, :2].detach()
    right = replace(samples, y=scores.argmax(dim=1))
    target = Target(gate=router, experts=experts[:2], held=(0, 1), serving=Serving(top_k=2), num_experts=POOL)
    found = robust_figures(target, right, STRONG, SPAN, torch.zeros(SIZE, *SHAPE))
    assert found["zero_shot"] == pytest.approx(1 - found["flips"])
    assert found["flips"] > 0.1


def test_a_gate_that_does_not_see_the_image_is_not_moved() -> None:
    found, _ = figures(0, SERVINGS["best"], STRONG, gate="mlp")
    assert found["flips"] == 0


def test_an_embedding_is_computed_anew_from_the_attacked_image() -> None:
    common = build_expert("mlp", ExpertSpec(in_shape=SHAPE, num_classes=CLASSES, width=20), 3).eval()
    samples = samples_of(0)
    read_BD = common.embed(samples.inputs(slice(None))).detach()
    gate = gate_of("mlp", 0, read_BD.shape[1])
    own = replace(samples, gate_input=read_BD)
    experts = pool(0)
    target = Target(
        gate=gate, experts=experts[:3], held=(0, 1, 2), serving=SERVINGS["best"], num_experts=POOL, common=common
    )
    assert robust_figures(target, own, STRONG, SPAN, torch.zeros(SIZE, *SHAPE))["flips"] > 0
    still = robust_figures(replace(target, common=None), own, STRONG, SPAN, torch.zeros(SIZE, *SHAPE))
    assert still["flips"] == 0


def test_a_clients_figures_do_not_depend_on_who_is_attacked_with_it() -> None:
    experts, gate, serving = pool(0), gate_of("conv_router", 0), SERVINGS["best"]
    samples = [samples_of(seed, size) for seed, size in ((0, 30), (1, 70), (2, 64))]
    results = [served(own, gate, experts, serving) for own in samples]
    images = np.zeros((1, *SHAPE), np.uint8)
    empty = np.zeros((1, 1), np.float32)
    store = SampleStore(
        images=images,
        labels=np.zeros(1, np.int64),
        embeddings=empty,
        logits=empty,
        groups=np.zeros(1, np.int64),
        num_groups=1,
        mean=MEAN.flatten(),
        std=STD.flatten(),
        device=torch.device("cpu"),
    )
    ground = Ground(store=store, common=None, seed=0, asked=EvaluateSettings(attack_eps=0.1))

    def attacked(some: list[int]) -> list[ClientResult]:
        rest = ([results[n] for n in some], [samples[n] for n in some], gate, lambda i: experts[i], POOL, serving)
        return under_attack(ground, [20 + n for n in some], *rest)

    whole = attacked([0, 1, 2])
    assert [own.robust for own in whole] == [attacked([n])[0].robust for n in range(3)]
    assert all(own.accuracies == before.accuracies for own, before in zip(whole, results, strict=True))


def test_a_run_tells_of_it_where_it_is_asked_for(tmp_path: Path) -> None:
    changes = {"experts__model": "cnn", "gate__name": "conv_router", "num_server_rounds": 2}
    asked = small_config(**changes, evaluate__attack_eps=0.1, evaluate__attack_steps=3)
    lines = [rounds_of(run_small(tmp_path / str(n), settings=asked, nodes=n, home=tmp_path)) for n in (1, 2)]
    assert lines[0] == lines[1]
    plain = rounds_of(run_small(tmp_path / "plain", settings=small_config(**changes), home=tmp_path))
    for with_attack, without in zip(lines[0], plain, strict=True):
        found = (with_attack["evaluate"] or {}).pop("robust", None)
        assert with_attack == without
        assert (found is None) == (without["evaluate"] is None)
        if found is not None:
            assert set(found) == {"zero_shot", "mixture", "flips"}
            assert all(0 <= own["worst_decile"] <= own["mean"] <= 1 for own in found.values())


@pytest.mark.parametrize(
    "changes",
    [
        {"experts__model": "head", "common_expert__model": "mlp"},
        {"common_expert__source": "torchvision:resnet18"},
    ],
)
def test_what_cannot_be_attacked_is_refused(changes: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match=r"attack-eps needs experts that read images.*hint"):
        check_plugins(small_settings(evaluate__attack_eps=0.1, **changes))
