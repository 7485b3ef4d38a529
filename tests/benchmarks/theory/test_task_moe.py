"""The small version of TaskMoE's experiment, and laws of the tasks that it is about."""

import numpy as np
import pytest
import torch

from benchmarks.theory.task_moe import (
    CONFLICT,
    OLD,
    PLACES,
    ROWS,
    RULES,
    MultiTask,
    fitted,
    measure,
    old_tasks,
    parameters_of,
    tasks_of,
)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_gate_for_each_task_settles_what_inputs_cannot_tell(seed: int) -> None:
    shared, aware = (measure(row, seed, True) for row in ("mixture, shared gate", "mixture, a gate for each task"))
    assert shared["all"] + 5 < aware["all"]
    assert aware["conflict"] > shared["conflict"] + 20
    assert shared["conflict"] < 75, "whoever cannot tell the two tasks apart is right in one of them at most"
    assert aware["related"] > 0.9
    assert aware["related"] > aware["strangers"] + 0.3
    assert aware["unseen"] > 80
    assert aware["unseen_alike"] < aware["unseen"] - 10, (
        "the nearest head is no better than by lot where two are as near"
    )


@pytest.mark.parametrize("seed", range(4))
def test_a_mixture_with_a_shared_gate_is_better_than_one_network_of_its_size(seed: int) -> None:
    train, test = (tasks_of(seed, RULES, PLACES, size, part) for size, part in ((500, "train"), (2000, "test")))
    dense, shared = (
        old_tasks(fitted(ROWS[row], [train[task] for task in OLD], seed, 600), test)
        for row in ("one network", "mixture, shared gate")
    )
    assert shared > dense + 1


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("row", ROWS)
def test_a_task_that_comes_later_changes_no_answer_until_it_is_learnt(row: str, seed: int) -> None:
    model, samples = MultiTask(ROWS[row], len(OLD), seed), tasks_of(seed, RULES, PLACES, 50, "test")
    with torch.no_grad():
        for value in model.parameters():
            value.add_(torch.randn(value.shape, generator=torch.Generator().manual_seed(seed)))
        more = model.grown(len(RULES), seed)
        same = [torch.allclose(more({task: samples[task].x}), model({task: samples[task].x})) for task in OLD]
        own = more({len(OLD): samples[len(OLD)].x})
    assert all(same) or (ROWS[row].grows and not any(same)), "an expert more has a say in all gates"
    torch.testing.assert_close(own.exp().sum(dim=1), torch.ones(50))


@pytest.mark.parametrize("seed", range(3))
def test_the_tasks_are_as_they_are_described(seed: int) -> None:
    tasks = tasks_of(seed, RULES, PLACES, 4000, "train")
    one, two = (tasks[task].x.mean(dim=0) for task in CONFLICT)
    torch.testing.assert_close(one, two, rtol=0, atol=0.1)
    assert (tasks[0].x.mean(dim=0) - one).norm() > 3
    # a linear rule is learnt by a linear network: of two tasks of one rule one network is right, of two rules it is not
    for pair, at_least, at_most in (((0, 1), 0.9, 1.0), (CONFLICT, 0.3, 0.75)):
        x, y = (torch.cat([getattr(tasks[task], name) for task in pair]) for name in ("x", "y"))
        layer = torch.nn.Linear(16, 5)
        adam = torch.optim.Adam(layer.parameters(), 0.1)
        for _ in range(150):
            adam.zero_grad()
            torch.nn.functional.cross_entropy(layer(x), y).backward()
            adam.step()
        share = float((layer(x).argmax(dim=1) == y).double().mean())
        assert at_least < share <= at_most
    again = tasks_of(seed, RULES, PLACES, 4000, "train")
    other = tasks_of(seed, RULES, PLACES, 4000, "test")
    for task in OLD:
        assert torch.equal(tasks[task].x, again[task].x)
        assert not torch.equal(tasks[task].x, other[task].x)


def test_the_rows_have_about_as_many_parameters() -> None:
    sizes = [parameters_of(row, len(OLD)) for row in ROWS.values()]
    assert max(sizes) < 1.03 * min(sizes)
    assert np.median(sizes) > 1000
