"""When a figure told round by round has dropped for good: a cumulative sum with a known rate of false alarms."""

import math
from dataclasses import dataclass

__all__ = ["DropAlarm", "Watch", "threshold_for"]

OVERSHOOT = 1.166  # twice 0.583, Siegmund's correction for looking at discrete times
BELIEVED = 2.0  # standard deviations: of a larger drop, what mean and variance learn from
SPREAD = 0.05  # the least standard deviation of the figure that is believed


@dataclass(frozen=True)
class Watch:
    """What is known of one figure.

    Attributes:
        seen: figures so far.
        mean: of them, the latest weighing most.
        variance: likewise, around that mean.
        score: how much evidence there is for a drop, in standard deviations.
    """

    seen: int = 0
    mean: float = 0.0
    variance: float = 0.0
    score: float = 0.0

    @property
    def spread(self) -> float:
        """Returns the standard deviation that a figure is judged by."""
        return max(SPREAD, math.sqrt(self.variance))


@dataclass(frozen=True)
class DropAlarm:
    """A one-sided cumulative sum (Page 1954): `s <- max(0, s + (mean - x) / spread - slack)`, an alarm where s > h.

    One figure counts for two thirds of h at the most: an alarm needs two. Mean and variance follow the figure, so that
    what rises, as accuracies in training do, raises no alarm; a drop of more than two standard deviations moves them
    as one of two would, so that what has dropped for good does not soon count as usual.

    Attributes:
        threshold: h.
        warm_up: figures that are only learnt from.
        slack: of a drop's size in standard deviations, what counts for nothing.
        memory: how much of mean and variance stays from figure to figure, in [0, 1).
    """

    threshold: float
    warm_up: int = 10
    slack: float = 1.0
    memory: float = 0.9

    def after(self, watch: Watch, figure: float) -> Watch:
        """Returns what is known once another figure has come."""
        score = 0.0
        if watch.seen >= self.warm_up:
            drop = (watch.mean - figure) / watch.spread - self.slack
            score = max(0.0, watch.score + min(drop, 2 / 3 * self.threshold))
            figure = max(figure, watch.mean - BELIEVED * watch.spread)
        share = max(1 - self.memory, 1 / (watch.seen + 1))
        mean = watch.mean + share * (figure - watch.mean)
        variance = (1 - share) * (watch.variance + share * (figure - watch.mean) ** 2)
        return Watch(watch.seen + 1, mean, variance, score)

    def rings(self, watch: Watch) -> bool:
        """Returns whether it is an alarm."""
        return watch.score > self.threshold


def threshold_for(figures: int, rate: float, slack: float = 1.0) -> float:
    """Returns h, so that so many figures without a drop raise `rate` false alarms on average.

    By Siegmund's approximation for normal figures of known mean and spread: the average run between false alarms is
    `(exp(2 k b) - 2 k b - 1) / (2 k^2)` with `b = h + 1.166` and k the slack (Siegmund 1985, Sequential Analysis).

    >>> round(threshold_for(300, 0.01), 2)
    4.34

    Args:
        figures: of all that are watched together: rounds times experts.
        rate: above 0.
        slack: of the alarm.

    Raises:
        ValueError: a rate that is not above 0.
    """
    if rate <= 0:
        raise ValueError(f"the rate of false alarms must be above 0, got {rate}")
    low, high = -OVERSHOOT, 100.0
    while high - low > 1e-9:
        middle = (low + high) / 2
        exponent = 2 * slack * (middle + OVERSHOOT)
        length = (math.exp(exponent) - exponent - 1) / (2 * slack**2)
        low, high = (middle, high) if length < figures / rate else (low, middle)
    return max(0.0, high)
