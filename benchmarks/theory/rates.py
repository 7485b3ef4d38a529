"""How fast an error falls with the number of samples."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

__all__ = ["curve_of", "draw_rate", "rate"]


def rate(errors: Mapping[int, float]) -> float:
    """Returns the slope of log error over log samples, by least squares: -0.5 where the error falls like n^(-1/2).

    >>> round(rate({100: 0.3, 400: 0.15, 1600: 0.075}), 3)
    -0.5
    """
    log_n = np.log(np.array(list(errors), dtype=float))
    slope, _ = np.polyfit(log_n, np.log(np.array(list(errors.values()))), 1)
    return float(slope)


def curve_of(runs: Sequence[Mapping[str, float]], name: str) -> dict[int, list[float]]:
    """Returns size -> each run's error, of the figures that are called `NAME at SIZE`.

    >>> curve_of([{"density at 100": 0.3, "density": -0.5}], "density")
    {100: [0.3]}
    """
    sizes = [int(key.rsplit(" ", 1)[1]) for key in runs[0] if key.startswith(f"{name} at ")]
    return {size: [run[f"{name} at {size}"] for run in runs] for size in sizes}


def draw_rate(axes: Axes, errors: Mapping[int, Sequence[float]], label: str, colour: str, style: str) -> None:
    """Draws the geometric mean over seeds of each size's error, with a band of one standard deviation of its log."""
    sizes = np.array(list(errors))
    logs = [np.log(np.array(values)) for values in errors.values()]
    mean, spread = np.array([own.mean() for own in logs]), np.array([own.std() for own in logs])
    axes.loglog(sizes, np.exp(mean), style, color=colour, label=label, markersize=4)
    axes.fill_between(sizes, np.exp(mean - spread), np.exp(mean + spread), color=colour, alpha=0.12, linewidth=0)
