"""What the rounds come to is what their lines add up to."""

import json
from collections import Counter

import numpy as np
import pytest

from fedmoe.errors import RunFolderError
from fedmoe.recording.outcome import read_outcome
from fedmoe.recording.rounds import append_round, iter_rounds, read_rounds
from tests.recording.fake_run import fake_rounds


@pytest.mark.parametrize("every", [1, 7, 40])
@pytest.mark.parametrize("num_rounds", [1, 4, 40])
def test_an_outcome_adds_up_the_lines(tmp_path, num_rounds, every):
    lines = fake_rounds(num_rounds=num_rounds, every=every)
    for number, line in enumerate(lines, start=1):
        line["seconds"]["round"] = 1 / number
        append_round(tmp_path, line)
    outcome = read_outcome(tmp_path / "rounds.jsonl")
    assert outcome.rounds == num_rounds
    assert outcome.seconds == tuple(line["seconds"]["round"] for line in lines)
    assert (outcome.down, outcome.up) == tuple(sum(line["bytes"][way] for line in lines) for way in ("down", "up"))
    assert outcome.failures == sum(len(line["failures"]) for line in lines)
    assert outcome.took_part == Counter(client for line in lines for client in line["clients"])
    assert outcome.evaluation == json.loads(json.dumps(lines[-1]["evaluate"]))


def test_the_latest_evaluation_counts_whatever_came_after_it(tmp_path):
    lines = fake_rounds(num_rounds=5, every=3)
    lines[-1]["evaluate"] = None
    for line in lines:
        append_round(tmp_path, line)
    assert read_outcome(tmp_path / "rounds.jsonl").evaluation == json.loads(json.dumps(lines[2]["evaluate"]))
    assert read_outcome(tmp_path / "none.jsonl").rounds == 0


@pytest.mark.parametrize("seed", range(4))
def test_an_expert_is_untrained_that_nobody_held_since_the_evaluation_before(tmp_path, seed):
    rng, lines = np.random.default_rng(seed), fake_rounds(num_rounds=11, every=3)
    for line in lines:
        line["load"] = (rng.integers(0, 4, 5) * (rng.random(5) < 0.3)).tolist()
        line["seconds"]["personalise"] = line["round"] / 10 if line["evaluate"] else None
        append_round(tmp_path, line)
    # rounds 10 and 11: the evaluation before the last one stood at round 9
    idle = [m for m in range(5) if lines[9]["load"][m] == lines[10]["load"][m] == 0]
    outcome = read_outcome(tmp_path / "rounds.jsonl")
    assert outcome.untrained == tuple(idle)
    assert outcome.personalise == (0.3, 0.6, 0.9, 1.1)


def test_rounds_come_one_at_a_time(tmp_path):
    for line in fake_rounds(num_rounds=3):
        append_round(tmp_path, line)
    with (tmp_path / "rounds.jsonl").open("a") as file:
        file.write("nonsense\n")
    rounds = iter_rounds(tmp_path / "rounds.jsonl")
    assert [next(rounds)["round"] for _ in range(3)] == [1, 2, 3], "what stands before a damaged line is read"
    with pytest.raises(RunFolderError, match="in line 4"):
        next(rounds)


def test_keys_can_be_left_out(tmp_path):
    lines = fake_rounds(num_rounds=3)
    for line in lines:
        append_round(tmp_path, line)
    kept = read_rounds(tmp_path / "rounds.jsonl", without=("rankings", "clients"))
    assert [line.keys() for line in kept] == [line.keys() - {"rankings", "clients"} for line in lines]
