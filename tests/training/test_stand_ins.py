"""Jobs whose experts stand in for the pool's: they start from, and send, another vector, and nothing else."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from fedmoe.federation.job import ClientJob, Term
from fedmoe.federation.ledger import Ledger
from fedmoe.federation.state import ServerState
from fedmoe.flower.wire import job_from_json, job_to_json
from fedmoe.training.loop import LoopTrainer
from fedmoe.training.stacked import StackedTrainer
from tests.training.test_trainers import ROWS, Field, check_equal, prepared, updates_of  # noqa: F401 - a fixture

NAME = "shadow/expert/1"
BYTES = 4


def with_candidate(field: Field) -> ServerState:
    vector = 0.1 * np.random.default_rng(5).standard_normal(field.state.experts[1].size).astype(np.float32)
    return replace(field.state, extras={NAME: vector})


def jobs_of(field: Field, name: str) -> tuple[list[ClientJob], list[ClientJob]]:
    """Returns the jobs that hold expert 1, as they are and with its candidate."""
    plain = [job for job in field.jobs(ROWS[name]) if 1 in job.experts]
    return plain, [replace(job, instead={1: NAME}) for job in plain]


@pytest.mark.parametrize("name", ["dense", "mixture", "mixture and prox", "experts and gate in turn"])
@pytest.mark.parametrize("trainer", [LoopTrainer, StackedTrainer])
def test_a_candidate_is_trained_as_if_it_were_the_expert_and_sent_alone(
    prepared: Callable[..., Field],  # noqa: F811
    trainer: type,
    name: str,
) -> None:
    field = prepared(ROWS[name])
    state, (plain, ours) = with_candidate(field), jobs_of(field, name)
    swapped = replace(state, experts=(state.experts[0], np.asarray(state.extras[NAME]), *state.experts[2:]))
    wanted = updates_of(trainer(field.place), plain, swapped)
    for client, update in updates_of(trainer(field.place), ours, state).items():
        assert update.gate is None
        assert dict(update.experts) == {}
        assert list(update.vectors()) == [f"extra/{NAME}"]
        assert update.changes[f"extra/{NAME}"].tobytes() == wanted[client].experts[1].tobytes()
        assert not np.array_equal(update.changes[f"extra/{NAME}"], state.extras[NAME])


def test_both_trainers_stack_them_apart_from_jobs_with_the_expert_itself(
    prepared: Callable[..., Field],  # noqa: F811
) -> None:
    field = prepared(ROWS["mixture"])
    state, (plain, ours) = with_candidate(field), jobs_of(field, "mixture")
    mixed = [*plain[::2], *ours[1::2]]
    check_equal(
        updates_of(LoopTrainer(field.place), mixed, state), updates_of(StackedTrainer(field.place), mixed, state)
    )


def job(experts: tuple[int, ...] = (0, 1), **changes: object) -> ClientJob:
    return ClientJob(
        client_id=3,
        round_num=1,
        experts=experts,
        objective=(Term("dense"),),
        gate=True,
        **changes,  # type: ignore[arg-type]
    )


def test_it_travels_and_must_be_for_experts_that_the_job_holds() -> None:
    own = job(instead={1: NAME}, reports=True)
    assert job_from_json(job_to_json(own)) == own
    assert own.source_of(1) == NAME
    assert own.source_of(0) == "expert/0"
    with pytest.raises(ValueError, match="instead must be for its experts"):
        job(instead={2: NAME})


def test_the_ledger_counts_a_candidate_both_ways_and_what_came_before_once() -> None:
    ledger = Ledger(gate_size=5, expert_size=70, num_experts=2, common_size=0)
    alone, shadow = job(), job(instead={1: NAME})
    plain, both = ledger.round([alone], [], [], 2), ledger.round([alone, shadow], [], [], 2)
    assert (both.down - plain.down, both.up - plain.up) == (70 * BYTES, 70 * BYTES)
    assert both.by_expert[0] == plain.by_expert[0]
    told = ledger.round([replace(alone, reports=True), replace(shadow, reports=True)], [], [], 2)
    assert told.up - both.up == 3 * 12, "two experts and one candidate"
    assert told.down == both.down
    assert plain + ledger.copies([2, 0]) == replace(
        plain, down=plain.down + 2 * 70 * BYTES, by_expert=(plain.by_expert[0] + 2 * 70 * BYTES, plain.by_expert[1])
    )
