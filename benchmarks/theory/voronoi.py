"""How fast softmax-gated Gaussian experts are recovered, with as many as there are, and with too many.

`python -m benchmarks.theory.voronoi --output DIR`: arXiv 2305.03288; x is even on (0, 1).
"""

import numpy as np
from matplotlib.figure import Figure

from benchmarks.theory.experiment import Experiment, Figures, Results, main
from benchmarks.theory.gaussian_gating import errors_of, fitted, near, samples_at
from benchmarks.theory.rates import curve_of, draw_rate, rate
from fedmoe.federation.top_k_mixture import TopKMixture
from fedmoe.seeding import numpy_stream

__all__ = ["EXPERIMENT", "ROWS", "truth"]

SIZES, SMALL_SIZES = (100, 316, 1_000, 3_162, 10_000, 31_623), (316, 3_162)
REPETITIONS, SMALL_REPETITIONS = 4, 3
ROWS = {
    "two experts for two": [0, 1],
    "three for two: one there twice": [0, 1, 1],
}
KINDS = ("gate slopes", "slopes", "intercepts", "variance")
NAMES = ("density", "voronoi", *KINDS, "gate slopes, farther copy", "slopes, farther copy")


def truth() -> TopKMixture:
    """Returns two experts whose lines cross where the gate is undecided, with overlapping inputs."""
    return TopKMixture(
        np.array([[5.0, -2.5], [0.0, 0.0]]), np.array([[-4.0, 3.0], [4.0, -1.0]]), np.array([0.3, 0.4]), 2
    )


def measure(row: str, seed: int, small: bool) -> Figures:
    """Returns the mean errors at each size, and their slopes."""
    true, curves = truth(), {name: dict[int, float]() for name in NAMES}
    for size in SMALL_SIZES if small else SIZES:
        runs = []
        for number in range(SMALL_REPETITIONS if small else REPETITIONS):
            stream = numpy_stream(seed, row, size, number)
            features, y = samples_at(true, stream.random(size), stream)
            runs.append(errors_of(fitted(near(true, ROWS[row], stream), features, y), true))
        for name in NAMES:  # a mean of logarithms: a single fit that runs off at 100 samples would be all of the mean
            curves[name][size] = float(np.exp(np.mean([np.log(run[name]) for run in runs])))
    figures = {name: rate(curve) for name, curve in curves.items()}
    for name, curve in curves.items():
        figures |= {f"{name} at {size}": error for size, error in curve.items()}
    return figures


def draw(results: Results, figure: Figure) -> None:
    """Draws density, Voronoi loss and the experts' slopes over the number of samples."""
    panels = figure.subplots(1, 3, sharex=True)
    shown = (
        ("density", "Hellinger distance"),
        ("voronoi", "Voronoi loss"),
        ("gate slopes", "Error of the gate's slopes"),
    )
    for axes, (name, title) in zip(panels, shown, strict=True):
        for (row, runs), colour in zip(results.items(), ("black", "tab:red"), strict=True):
            curve = curve_of(runs, name)
            draw_rate(axes, curve, row.split(":")[0], colour, "o-")
        axes.set_title(title, fontsize=9)
        axes.set(xlabel="samples n")
        axes.legend(fontsize=8, frameon=False)
    panels[0].set_ylabel("error")


EXPERIMENT = Experiment(
    name="voronoi",
    title="Slopes of log error over log n",
    rows=tuple(ROWS),
    measure=measure,
    draw=draw,
    columns={
        "density": "density (Hellinger)",
        "voronoi": "Voronoi loss",
        "gate slopes": "gate slopes b1",
        "slopes": "expert slopes a",
        "intercepts": "intercepts b",
        "variance": "variances",
        "gate slopes, farther copy": "b1 of the expert that is farthest off",
        "slopes, farther copy": "a of it",
    },
    digits={},
)

if __name__ == "__main__":
    main(EXPERIMENT)
