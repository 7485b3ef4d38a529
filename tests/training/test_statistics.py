"""Statistics: what clients answer in place of training, by both trainers' node; a file without a row fails."""

from pathlib import Path

import numpy as np
import pytest

from fedmoe.federation.job import ClientJob, Question
from fedmoe.federation.state import ServerState
from fedmoe.flower.strategy import ExpertStrategy
from fedmoe.references import known_names
from fedmoe.training.statistic import Answer
from tests.small import newest_state, rounds_of, run_small, small_config

# By name: the test file that holds the statistic against the equations.
STATISTICS = {"logistic_mixture": "tests/strategies/test_logistic_em.py"}


def test_every_statistic_has_a_row() -> None:
    assert sorted(STATISTICS) == known_names("fedmoe.training.statistics")
    assert all((Path(__file__).parents[2] / file).exists() for file in STATISTICS.values())


class LabelCounts:
    """How many samples of each class the client holds, and the first value of its first expert."""

    def __call__(self, experts, gate, samples):
        if len(samples) < 20:
            raise ValueError("too few samples")
        counts = np.bincount(samples.y.numpy(), minlength=6).astype(np.float32)
        first = next(experts[0].parameters()).detach().reshape(-1)[:1].numpy()
        return Answer(np.concatenate([counts, first]), 0.5)


class Asks(ExpertStrategy):
    """Asks for label counts and keeps the mean; nothing is trained."""

    size = 7

    def job(self, round_num, client_id, held):
        asked = Question("tests.training.test_statistics:LabelCounts", self.size)
        return ClientJob(
            client_id=client_id, round_num=round_num, experts=held, objective=(), gate=False, question=asked
        )

    def merge(self, round_num, state, updates):
        found = updates.sums.average("extra/statistic")
        return ServerState(gate=None, experts=state.experts, extras={"counts": found})


class AsksForMore(Asks):
    """Says that it wants another number of numbers than it gets."""

    size = 9


@pytest.mark.parametrize("nodes", [1, 3])
@pytest.mark.parametrize("trainer", ["loop", "stacked", "auto"])
def test_a_strategy_hears_the_mean_of_what_clients_answer(tmp_path: Path, trainer: str, nodes: int) -> None:
    asks = small_config(
        strategy__name="tests.training.test_statistics:Asks",
        train__trainer=trainer,
        seed=2,
        clients__anchors_per_round=0,
    )
    run = run_small(tmp_path, nodes=nodes, settings=asks | {"num-server-rounds": 2, "clients.per-round": 12})
    state = newest_state(run)
    start = newest_state(run_small(tmp_path / "other", settings=asks | {"num-server-rounds": 1}))
    assert state.experts[0].tobytes() == start.experts[0].tobytes(), "nobody trains"
    counts, told = state.extras["counts"], rounds_of(run)[-1]
    # too small clients have failed, and are named; the others' counts are all there
    assert told["completed"] == 12 - len(told["failures"])
    assert counts[:6].sum() * told["completed"] == pytest.approx(told["train"]["examples"])
    assert counts[6] == pytest.approx(float(state.experts[0][0]), abs=1e-6)
    assert told["train"]["loss"] == pytest.approx(0.5)
    assert {failure["error"] for failure in told["failures"]} <= {"ValueError: too few samples"}
    assert told["bytes"]["up"] == 12 * 7 * 4


def test_an_answer_of_another_size_is_a_failure_that_says_so(tmp_path: Path) -> None:
    asks = small_config(strategy__name="tests.training.test_statistics:AsksForMore")
    with pytest.raises(Exception, match=r"must have the size that its job says, 9, got an array of shape \(7,\)"):
        run_small(tmp_path, settings=asks | {"clients.min-completed": 1.0})
