"""Gates and experts built by name, with weights that depend on nothing but the seed."""

import threading
from collections.abc import Callable, Sequence
from typing import TypeVar, cast

import torch
from torch import nn

from fedmoe.moe.expert import Expert, ExpertSpec
from fedmoe.moe.experts.linear import LinearExpert
from fedmoe.moe.gate import Gate, GateSpec
from fedmoe.moe.pooling import pool_first
from fedmoe.references import load_plugin, short_name
from fedmoe.settings import Settings
from fedmoe.settings.arguments import keyword_arguments

__all__ = [
    "EXPERTS",
    "GATES",
    "build_expert",
    "build_gate",
    "common_backbone",
    "expert_arguments",
    "expert_reads",
    "expert_spec",
    "gate_class",
    "gate_spec",
    "is_head_alone",
    "is_linear",
    "shared_tensors",
    "stands_on_common",
    "takes_lots",
]

GATES, EXPERTS = "fedmoe.moe.gates", "fedmoe.moe.experts"  # packages, a file each

FALLBACK = "mlp"  # the common expert where the experts themselves cannot be one

_one_at_a_time = threading.Lock()  # the generator is the whole process's; nodes may be threads

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def build_expert(name: str, spec: ExpertSpec, seed: int) -> Expert:
    """Returns a freshly initialised expert of the backbone `name`, on the CPU; pooling goes before ReLU (`pool_first`).

    Raises:
        ReferenceError_: no such backbone.
    """
    make = cast(Callable[..., Expert], load_plugin("expert", EXPERTS, name))
    expert = _seeded(lambda: make(spec, **spec.arguments), seed)
    pool_first(expert, spec.in_shape)
    return expert


def expert_reads(name: str) -> str:
    """Returns what experts of the backbone `name` read (`Expert.reads`).

    Raises:
        ReferenceError_: no such backbone.
    """
    return str(getattr(load_plugin("expert", EXPERTS, name), "reads", "image"))


def common_backbone(settings: Settings) -> str:
    """Returns the common expert's backbone: as `common-expert.model` says; if that is empty, the experts' own.

    Experts that read embeddings or correct the common expert cannot be one: then it is `mlp`.

    Raises:
        ReferenceError_: no such backbone.
    """
    given, model = settings.common_expert.model, settings.experts.model
    alone = expert_reads(model) == "image" and not stands_on_common(model)
    return given or (model if alone else FALLBACK)


def stands_on_common(name: str) -> bool:
    """Returns whether experts of the backbone `name` are built on the common expert's weights (`Expert.on_common`).

    Raises:
        ReferenceError_: no such backbone.
    """
    return bool(getattr(load_plugin("expert", EXPERTS, name), "on_common", False))


def takes_lots(name: str) -> bool:
    """Returns whether experts of the backbone `name` take numbers by lot in training (`Expert.draws`).

    Raises:
        ReferenceError_: no such backbone.
    """
    return getattr(load_plugin("expert", EXPERTS, name), "draws", Expert.draws) is not Expert.draws


def shared_tensors(name: str) -> tuple[str, ...]:
    """Returns patterns of the tensors that experts of the backbone `name` have in common (`Expert.shared`).

    Raises:
        ReferenceError_: no such backbone.
    """
    return tuple(getattr(load_plugin("expert", EXPERTS, name), "shared", ()))


def is_head_alone(name: str) -> bool:
    """Returns whether experts of the backbone `name` are a linear head on the common expert's embedding, and no more.

    Raises:
        ReferenceError_: no such backbone.
    """
    if expert_reads(name) != "embedding":
        return False
    expert = build_expert(name, ExpertSpec(in_shape=(2, 1, 1), num_classes=2), 0)
    return expert.head.in_features == 2 and all(part.startswith("head.") for part in expert.state_dict())


def is_linear(name: str) -> bool:
    """Returns whether experts of the backbone `name` are a linear layer on what they read, and no more.

    Raises:
        ReferenceError_: no such backbone.
    """
    found = load_plugin("expert", EXPERTS, name)
    return isinstance(found, type) and issubclass(found, LinearExpert)


def gate_class(name: str) -> type[Gate]:
    """Returns the gate's class.

    Raises:
        ReferenceError_: no such gate.
    """
    return cast(type[Gate], load_plugin("gate", GATES, name))


def build_gate(name: str, spec: GateSpec, seed: int) -> Gate:
    """Returns a freshly initialised gate, on the CPU."""
    make = cast(Callable[..., Gate], gate_class(name))
    return _seeded(lambda: make(spec, **spec.arguments), seed)


def gate_spec(
    settings: Settings, name: str, in_features: int, num_experts: int, in_shape: tuple[int, int, int] | None = None
) -> GateSpec:
    """Returns what the gate `name` is built from, its arguments among it.

    Args:
        settings: the run's.
        name: of the gate.
        in_features: the width of what it reads.
        num_experts: M.
        in_shape: channels, height, width of what the experts read; `None`: not known.

    Raises:
        SettingsError: it does not take the arguments of its table.
    """
    own = short_name(name, GATES)
    return GateSpec(
        in_features=in_features,
        num_experts=num_experts,
        hidden=settings.gate.hidden,
        arguments=keyword_arguments(f"gate.{own}", gate_class(name), settings.gate.arguments.get(own, {})),
        in_shape=in_shape,
    )


def expert_spec(
    settings: Settings, in_shape: Sequence[int], num_classes: int, backbone: str = "", common: Expert | None = None
) -> ExpertSpec:
    """Returns what experts (and the common expert) are built from for inputs of this shape.

    Args:
        settings: the run's.
        in_shape: channels, height, width.
        num_classes: C.
        backbone: empty: the experts'.
        common: the common expert, for experts that stand on it.

    Raises:
        SettingsError: the backbone does not take the arguments of its table.
    """
    channels, height, width = (int(n) for n in in_shape)
    return ExpertSpec(
        in_shape=(channels, height, width),
        num_classes=num_classes,
        width=settings.experts.width,
        norm=settings.experts.norm,
        arguments=expert_arguments(settings, backbone or settings.experts.model),
        common=common,
    )


def expert_arguments(settings: Settings, name: str) -> dict[str, object]:
    """Returns the arguments of the backbone `name`, from its table.

    Raises:
        SettingsError: it does not take them.
    """
    own, make = short_name(name, EXPERTS), load_plugin("expert", EXPERTS, name)
    return keyword_arguments(f"experts.{own}", make, settings.experts.arguments.get(own, {}))


def _seeded(make: Callable[[], ModuleT], seed: int) -> ModuleT:
    # torch's layers draw their first weights from the global generator: fork it, so that nobody else's stream moves
    with _one_at_a_time, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()
