"""Seconds of sides that take turns, and what they come to: medians, and ratios to the side that is ours.

A side is whatever does the same work in its own way: a simulator, a loop, a floor. Speeds of a machine drift within
minutes (other work, heat), so only what ran in turn may be compared.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import median

__all__ = ["interleave", "summary", "turns"]

LEAST = 2  # repetitions below which a spread would say nothing


def interleave(
    sides: Mapping[str, Callable[[], float]],
    repetitions: int,
    tell: Callable[[int, str, float], None] = lambda repetition, side, seconds: None,
) -> dict[str, list[float]]:
    """Returns the seconds of each side, one figure a repetition, all sides having taken turns.

    >>> interleave({"ours": lambda: 1.0, "peer": lambda: 2.0}, 2)
    {'ours': [1.0, 1.0], 'peer': [2.0, 2.0]}

    Args:
        sides: name -> does the work once and returns the seconds it took.
        repetitions: how often each side has its turn, at least 2.
        tell: is told of each turn: repetition (from 1), side, seconds.

    Raises:
        ValueError: fewer repetitions, or no side.
    """
    if repetitions < LEAST or not sides:
        raise ValueError(f"there must be a side and at least {LEAST} repetitions, got {len(sides)} and {repetitions}")
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for repetition in range(repetitions):
        for name in turns(list(sides), repetition):
            taken = sides[name]()
            seconds[name].append(taken)
            tell(repetition + 1, name, taken)
    return seconds


def turns(names: Sequence[str], repetition: int) -> list[str]:
    """Returns the order of a repetition: each starts one side later than the one before, as what ran last leaves marks.

    >>> turns(["a", "b", "c"], 0), turns(["a", "b", "c"], 1)
    (['a', 'b', 'c'], ['b', 'c', 'a'])
    """
    start = repetition % len(names)
    return [*names[start:], *names[:start]]


def summary(seconds: Mapping[str, Sequence[float]], amount: float, ours: str) -> dict[str, dict[str, float]]:
    """Returns what each side's seconds come to, as plain tables that JSON can hold.

    `times_as_fast` is how many times as fast as this side *ours* is: the ratio of the two medians; above 1, ours is
    faster. `times_as_fast_min` and `_max` are over the repetitions, each side against ours of the same repetition.

    >>> rows = summary({"ours": [1.0, 1.0, 2.0], "peer": [3.0, 4.0, 4.0]}, 100, "ours")
    >>> rows["peer"]["per_second"], rows["peer"]["times_as_fast"], rows["peer"]["times_as_fast_min"]
    (25.0, 4.0, 2.0)

    Args:
        seconds: side -> seconds, as `interleave` gives them.
        amount: of work in one turn (samples, clients): the same for all sides.
        ours: the side that the others are compared with.

    Raises:
        ValueError: there is no such side, the sides had unequal turns, or a turn took no time.
    """
    if ours not in seconds:
        raise ValueError(f"'{ours}' must be one of the sides, got {', '.join(seconds)}")
    if len({len(turn) for turn in seconds.values()}) != 1:
        counts = {name: len(turn) for name, turn in seconds.items()}
        raise ValueError(f"all sides must have as many turns, got {counts}")
    if not all(math.isfinite(value) and value > 0 for turn in seconds.values() for value in turn):
        raise ValueError(f"seconds must be finite and above 0, got {dict(seconds)}")
    rows = {}
    for name, own in seconds.items():
        paired = [theirs / mine for theirs, mine in zip(own, seconds[ours], strict=True)]
        rows[name] = {
            "seconds_median": median(own),
            "seconds_min": min(own),
            "seconds_max": max(own),
            "per_second": amount / median(own),
            "times_as_fast": median(own) / median(seconds[ours]),
            "times_as_fast_min": min(paired),
            "times_as_fast_max": max(paired),
        }
    return rows
