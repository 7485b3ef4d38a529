"""When a figure has dropped for good: on figures whose law is known, and on those of a stream that drifts."""

import numpy as np
import pytest

from fedmoe.federation.drop_alarm import DropAlarm, Watch, threshold_for

ROUNDS = 100


def alarms(figures: np.ndarray, alarm: DropAlarm) -> list[int]:
    """Returns the places at which it rings, begun anew after each alarm."""
    watch, found = Watch(), []
    for number, figure in enumerate(figures.tolist()):
        watch = alarm.after(watch, figure)
        if alarm.rings(watch):
            found.append(number)
            watch = Watch()
    return found


@pytest.mark.parametrize(("slack", "threshold"), [(0.5, 3.0), (1.0, 1.5), (0.25, 4.0)])
def test_the_threshold_is_the_one_of_the_run_length_that_simulation_finds(slack: float, threshold: float) -> None:
    exponent = 2 * slack * (threshold + 1.166)
    length = (np.exp(exponent) - exponent - 1) / (2 * slack**2)
    assert threshold_for(1000, 1000 / length, slack) == pytest.approx(threshold, abs=1e-6)
    rng, lengths = np.random.default_rng(0), []
    for _ in range(400):  # the plain sum, mean and spread known
        score, steps = 0.0, 0
        while score <= threshold:
            score, steps = max(0.0, score + rng.standard_normal() - slack), steps + 1
        lengths.append(steps)
    assert np.mean(lengths) == pytest.approx(length, rel=0.2)


@pytest.mark.parametrize("law", ["normal", "heavy", "rising", "binomial"])
def test_figures_that_do_not_drop_raise_no_alarm(law: str) -> None:
    alarm, total = DropAlarm(threshold_for(20 * ROUNDS * 5, 0.01)), 0
    for seed in range(20 * 5):
        rng = np.random.default_rng(seed)
        noise = {
            "normal": rng.normal(0, 0.08, ROUNDS),
            "heavy": 0.05 * rng.standard_t(3, ROUNDS),
            "rising": rng.normal(0, 0.05, ROUNDS) - 0.7 * np.exp(-np.arange(ROUNDS) / 15),
            "binomial": rng.binomial(40, 0.9, ROUNDS) / 40 - 0.9,
        }[law]
        total += len(alarms(0.9 + noise, alarm))
    assert total <= {"heavy": 10}.get(law, 0), "of 10,000 figures; tails heavier than a normal law's cost alarms"


@pytest.mark.parametrize("level", [0.6, 0.9])
@pytest.mark.parametrize("seed", range(20))
def test_a_drop_is_found_within_a_few_figures_but_never_by_one(seed: int, level: float) -> None:
    rng, alarm = np.random.default_rng(seed), DropAlarm(threshold_for(5 * ROUNDS, 0.01))
    figures = level + rng.normal(0, 0.05, ROUNDS)
    figures[60:] -= 0.5
    assert alarms(figures, alarm)[0] in range(61, 65)
    once = level + rng.normal(0, 0.05, ROUNDS)
    once[60] = -10.0
    assert 60 not in alarms(once, alarm)


def test_a_figure_in_warm_up_is_only_learnt_from() -> None:
    alarm = DropAlarm(2.0, warm_up=5)
    assert alarms(np.array([1.0, 1.0, 1.0, -5.0, -5.0]), alarm) == []
    watch = Watch()
    for figure in (0.2, 0.4, 0.9):
        watch = alarm.after(watch, figure)
    assert watch.mean == pytest.approx(0.5)
    assert watch.variance == pytest.approx(np.var([0.2, 0.4, 0.9]))


@pytest.mark.parametrize("rate", [0.0, -1.0])
def test_a_rate_of_nothing_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="must be above 0"):
        threshold_for(10, rate)
