"""Law 2 for every expert, and for gates off their defaults: the stack gives the loop's updates."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fedmoe.federation.job import Term
from fedmoe.references import known_names
from fedmoe.training.loop import LoopTrainer
from fedmoe.training.stacked import StackedTrainer
from tests.training.test_trainers import Field, Row, check_equal, prepared, updates_of

__all__ = ["prepared"]

DEEP = ("resnet18", "resnet34")  # of the blocks of `resnet8`, which is tried
EXPERTS = [name for name in known_names("fedmoe.moe.experts") if name not in DEEP]
ARGUMENTS: dict[str, dict[str, Any]] = {
    # narrower ones have units at the edge of ReLU within rounding, and groups of one channel
    "resnet8": {"experts.width": 16, "clients.samples": 20},
    "rela": {"experts.width": 8, "clients.samples": 20},
    "channel_group": {"experts.width": 4, "clients.samples": 20},
    "head": {"common-expert.model": "mlp"},
    "low_rank": {"common-expert.model": "mlp"},
    "patch_cubic": {"experts.patch_cubic.start": 1.0, "train.learning-rate": 0.01},
    "patch_linear": {"experts.patch_linear.start": 1.0, "train.learning-rate": 0.01},
}
GATES: dict[str, dict[str, Any]] = {
    "top_k, after": {"gate.name": "top_k", "gate.top_k.order": "after"},
    "top_k, one, after": {"gate.name": "top_k", "gate.top_k.order": "after", "gate.top_k.k": 1},
    "top_k, chosen without the bias": {"gate.name": "top_k", "gate.top_k.bias-in-selection": False},
    "grn, sigmoid": {"gate.name": "grn", "gate.grn.activation": "sigmoid"},
    "grkan, sigmoid": {"gate.name": "grkan", "gate.grkan.activation": "sigmoid"},
    "relu, common": {"gate.name": "relu", "gate.relu.common": 0.7},
    "softmax, tanh": {"gate.name": "softmax", "gate.softmax.transform": "tanh"},
    "top_p, narrow": {"gate.name": "top_p", "gate.top_p.p": 0.5},
    "gumbel, cold": {"gate.name": "gumbel", "gate.gumbel.temperature": 0.3, "gate.gumbel.samples": 3},
}


def share_that_moved(
    prepared: Callable[..., Field], settings: dict[str, Any], seed: int, held: int
) -> dict[str, float]:
    """Returns the share of gates, and of experts, that came back other than sent, once both trainers' updates are one.

    Where one expert is chosen, others need not have learnt.
    """
    row = Row((Term("mixture"),), held=held, settings=settings)
    field = prepared(row, seed)
    jobs = field.jobs(row)
    loop = updates_of(LoopTrainer(field.place), jobs, field.state)
    check_equal(loop, updates_of(StackedTrainer(field.place), jobs, field.state))
    sent = {"gate": field.state.gate} | {f"expert/{n}": v for n, v in enumerate(field.state.experts)}
    back = [(name, vector) for update in loop.values() for name, vector in update.vectors().items()]
    moved = {
        own: [not np.array_equal(vector, sent[name]) for name, vector in back if name.startswith(own)]
        for own in ("gate", "expert")
    }
    return {own: sum(each) / len(each) for own, each in moved.items()}


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", EXPERTS)
def test_the_stack_gives_the_loops_updates_of_every_expert(
    prepared: Callable[..., Field], name: str, seed: int
) -> None:
    moved = share_that_moved(prepared, {"experts.model": name} | ARGUMENTS.get(name, {}), seed, 2)
    assert min(moved.values()) > 0.25


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", GATES)
def test_the_stack_gives_the_loops_updates_of_gates_off_their_defaults(
    prepared: Callable[..., Field], name: str, seed: int
) -> None:
    moved = share_that_moved(prepared, GATES[name] | {"train.epochs": 2}, seed, 3)
    assert min(moved.values()) > 0.25
