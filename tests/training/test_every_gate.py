"""Law 2 for every gate: whatever its rule, its lots and what it falls back on, the stack gives the loop's updates."""

from collections.abc import Callable

import numpy as np
import pytest

from fedmoe.federation.job import Term
from fedmoe.moe.construction import gate_class
from fedmoe.references import known_names
from fedmoe.training.loop import LoopTrainer
from fedmoe.training.stacked import StackedTrainer
from tests.training.test_trainers import Field, Row, check_equal, prepared, updates_of

__all__ = ["prepared"]

GATES = [name for name in known_names("fedmoe.moe.gates") if not gate_class(name).set_by_strategy]
TERMS = {"mixture": 2, "anchor": 1}


@pytest.mark.parametrize("seed", [0, 1, 5])  # of 5, few rows that fill up change nothing in `expert_choice`
@pytest.mark.parametrize("term", TERMS)
@pytest.mark.parametrize("gate", GATES)
def test_the_stack_gives_the_loops_updates(
    prepared: Callable[..., Field],
    gate: str,
    term: str,
    seed: int,
) -> None:
    row = Row((Term(term),), held=TERMS[term], settings={"gate.name": gate, "train.epochs": 2})
    field = prepared(row, seed)
    jobs = field.jobs(row)
    loop = updates_of(LoopTrainer(field.place), jobs, field.state)
    check_equal(loop, updates_of(StackedTrainer(field.place), jobs, field.state))
    trains = any(parameter.requires_grad for parameter in field.place.gate_for(5).parameters())
    moved = [not np.array_equal(update.gate, field.state.gate) for update in loop.values()]
    assert any(moved) == trains
