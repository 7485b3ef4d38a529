"""An expert's reward, and its life cycle on a stream whose concept changes for one of them."""

from dataclasses import replace

import numpy as np
import pytest

from fedmoe.federation.drop_alarm import DropAlarm, Watch, threshold_for
from fedmoe.federation.expert_reward import Rewarding, Service, rewards_of
from fedmoe.federation.life_cycle import Duel, Life, LifeCycle, lives_from, lives_to_array

ALARM = DropAlarm(threshold_for(100, 0.01), warm_up=3)
CYCLE = LifeCycle(ALARM, margin=0.1, rounds=2, trial=4)
GOOD, BAD = Duel(10, 4, 6), Duel(10, 5, 5)


def accused(**changes: object) -> Life:
    return replace(Life(Watch(9, 0.9, 0.0, 8.0), accused=5, candidates=1), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(5))
def test_the_reward_is_the_weighted_sum_of_its_four_parts(seed: int) -> None:
    rng = np.random.default_rng(seed)
    services = {}
    for i in range(4):
        samples, copies = int(rng.integers(1, 50)), int(rng.integers(1, 6))
        right, mixed = (int(rng.integers(0, samples + 1)) for _ in range(2))
        services[i] = Service(samples, right, mixed, copies, int(rng.integers(0, copies + 1)))
    weights = rng.random(4)
    found = rewards_of(services, Rewarding(*weights.tolist()))
    samples, copies = (sum(getattr(own, name) for own in services.values()) for name in ("samples", "copies"))
    for i, own in services.items():
        parts = (
            own.right / own.samples,
            (own.mixed - own.right) / own.samples,
            min(1, (own.samples / samples) / (own.copies / copies)),
            -own.failed / own.copies,
        )
        assert found[i] == pytest.approx(sum(w * part for w, part in zip(weights, parts, strict=True)))


def test_an_expert_that_nobody_can_tell_of_has_no_reward() -> None:
    assert rewards_of({0: Service(copies=2, failed=2), 1: Service()}, Rewarding()) == {}


def test_a_candidate_wins_by_the_margin_and_in_rounds_in_a_row() -> None:
    life, what = CYCLE.after(accused(), 6, 0.1, GOOD)
    assert (life.won, what) == (1, "")
    lost, what = CYCLE.after(life, 7, 0.1, BAD)
    assert (lost.won, lost.tried, what) == (0, 2, "")
    won, what = CYCLE.after(life, 7, 0.1, GOOD)
    assert (won, what) == (Life(born=7), "replaced")
    assert CYCLE.after(life, 7, 0.1, Duel(100, 50, 59))[1] == "", "nine points are no margin of ten"


def test_a_candidate_that_does_not_win_is_given_up_and_the_next_one_comes() -> None:
    life = accused()
    for round_num in range(6, 9):
        life, what = CYCLE.after(life, round_num, 0.1, BAD)
        assert what == ""
    assert CYCLE.after(life, 9, 0.1, None) == (life, ""), "a round without a duel counts for nothing"
    life, what = CYCLE.after(life, 9, 0.1, BAD)
    assert (what, life.candidates, life.tried, life.accused) == ("next", 2, 0, 5)


def test_an_incumbent_that_is_as_good_as_before_is_cleared_and_watched_again() -> None:
    life, what = CYCLE.after(accused(), 6, 0.88, BAD)
    assert (life.well, what) == (1, "")
    assert CYCLE.after(life, 7, 0.2, BAD)[0].well == 0
    life, what = CYCLE.after(life, 7, 0.9, BAD)
    assert (what, life.accused, life.watch.score) == ("cleared", 0, 0.0)


def test_at_the_end_of_its_term_an_expert_has_to_stand_up_to_one_candidate() -> None:
    cycle, life = replace(CYCLE, term=3), Life(born=2)
    assert cycle.after(life, 4, 0.9, None)[1] == ""
    life, what = cycle.after(life, 5, 0.9, None)
    assert (what, life.accused) == ("term", 5)
    for round_num in range(6, 10):
        life, what = cycle.after(life, round_num, 0.9, BAD)
    assert (what, life.accused, life.born) == ("cleared", 0, 9)


@pytest.mark.parametrize("seed", range(5))
def test_lives_are_kept_as_they_are(seed: int) -> None:
    rng = np.random.default_rng(seed)
    lives = [
        Life(Watch(int(rng.integers(9)), *rng.standard_normal(3).tolist()), *rng.integers(0, 99, 6).tolist())
        for _ in range(4)
    ]
    assert lives_from(lives_to_array(lives)) == lives


def stream(seed: int, drift: int | None, rounds: int = 80, pool: int = 4) -> tuple[list[tuple[int, int, str]], list]:
    """Experts whose accuracy rises, one of them hit by drift; candidates start from nothing and learn like the rest.

    A sample a vote: each expert's, and its candidate's on the same samples. Returns what has happened, and the hit
    expert's accuracy by round.
    """
    rng = np.random.default_rng(seed)
    cycle = LifeCycle(DropAlarm(threshold_for(rounds * pool, 0.01)), margin=0.05, rounds=3, trial=20)
    lives, skill = [Life() for _ in range(pool)], np.zeros(pool)
    candidates: dict[int, float] = {}
    happened, accuracy = [], []
    for round_num in range(1, rounds + 1):
        if round_num == drift:
            skill[2] = -30.0  # what it has learnt is in the way for as many rounds
        counts = rng.integers(30, 120, pool)
        share = 0.1 + 0.85 * (1 - np.exp(-np.maximum(skill, 0) / 6))
        right = rng.binomial(counts, share)
        rewards = {i: right[i] / counts[i] for i in range(pool) if rng.random() > 0.1}
        duels = {}
        for i, own in candidates.items():
            theirs = 0.1 + 0.85 * (1 - np.exp(-own / 6))
            duels[i] = Duel(int(counts[i]), int(right[i]), int(rng.binomial(counts[i], theirs)))
        lives, events = cycle.round(lives, round_num, rewards, duels)
        accuracy.append(share[2])
        skill, candidates = skill + 1, {i: own + 1 for i, own in candidates.items()}
        for event in events:
            happened.append((round_num, event.expert, event.what))
            own = candidates.pop(event.expert, 0.0)
            if event.what == "replaced":
                skill[event.expert] = own
            if event.what in ("alarm", "next"):
                candidates[event.expert] = 0.0
    return happened, accuracy


@pytest.mark.parametrize("seed", range(20))
def test_without_drift_nothing_happens(seed: int) -> None:
    assert stream(seed, None)[0] == []


@pytest.mark.parametrize("seed", range(20))
def test_an_expert_that_drift_hits_is_found_replaced_and_as_good_as_before(seed: int) -> None:
    happened, accuracy = stream(seed, 40)
    (found, *_), (replaced, *_) = ([r for r, i, what in happened if (i, what) == (2, w)] for w in ("alarm", "replaced"))
    assert 40 <= found <= 44
    assert found + 3 <= replaced <= found + 10
    assert {i for _, i, _ in happened} == {2}
    assert min(accuracy[60:]) >= 0.9 * np.mean(accuracy[29:39])


@pytest.mark.parametrize("score", [0.0, 1.3])
def test_an_expert_whose_term_is_over_is_not_accused_whatever_the_watch_suspects(score: float) -> None:
    cycle = replace(CYCLE, term=5)
    life = Life(Watch(9, 0.9, 0.01, score), born=0)
    life, what = cycle.after(life, 5, 0.9, None)
    assert what == "term"
    for round_num in range(6, 9):
        life, what = cycle.after(life, round_num, 0.9, BAD)
        assert what == "", "as good as ever, and so is everyone whose term is over"
    life, what = cycle.after(life, 9, 0.9, BAD)
    assert what == "cleared"
    assert life.born == 9, "its next term begins when its trial is over"
