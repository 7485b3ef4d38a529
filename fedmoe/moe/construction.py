"""Gates and experts built by name, with weights that depend on nothing but the seed."""

import threading
from collections.abc import Callable
from typing import TypeVar, cast

import torch
from torch import nn

from fedmoe.moe.expert import Expert, ExpertSpec
from fedmoe.moe.gate import Gate, GateSpec
from fedmoe.moe.pooling import pool_first
from fedmoe.references import load_plugin

__all__ = ["build_expert", "build_gate", "gate_class"]

_one_at_a_time = threading.Lock()  # the generator is the whole process's; nodes may be threads

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def build_expert(name: str, spec: ExpertSpec, seed: int) -> Expert:
    """Returns a freshly initialised expert of the backbone `name`, on the CPU; pooling goes before ReLU (`pool_first`).

    Raises:
        ReferenceError_: no such backbone.
    """
    make = cast(Callable[[ExpertSpec], Expert], load_plugin("expert", "fedmoe.moe.experts", name))
    expert = _seeded(lambda: make(spec), seed)
    pool_first(expert, spec.in_shape)
    return expert


def gate_class(name: str) -> type[Gate]:
    """Returns the gate's class.

    Raises:
        ReferenceError_: no such gate.
    """
    return cast(type[Gate], load_plugin("gate", "fedmoe.moe.gates", name))


def build_gate(name: str, spec: GateSpec, seed: int) -> Gate:
    """Returns a freshly initialised gate, on the CPU."""
    make = gate_class(name)
    return _seeded(lambda: make(spec), seed)


def _seeded(make: Callable[[], ModuleT], seed: int) -> ModuleT:
    # torch's layers draw their first weights from the global generator: fork it, so that nobody else's stream moves
    with _one_at_a_time, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()
