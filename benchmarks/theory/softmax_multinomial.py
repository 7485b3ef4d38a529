"""How fast softmax-gated multinomial logistic experts are recovered, with and without a bounded gate input.

`python -m benchmarks.theory.softmax_multinomial --output DIR`: arXiv 2310.14188, the vanishing and the plain regime.

Inputs lie on a grid, so the counts of each (input, class) are all there is to know of any number of samples.
"""

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.figure import Figure

from benchmarks.theory.experiment import Experiment, Figures, Results, main
from benchmarks.theory.rates import curve_of, draw_rate, rate
from fedmoe.evaluation.recovery import cell_errors, voronoi_cells
from fedmoe.federation.expectation_maximisation import climb
from fedmoe.federation.logistic_mixture import LogisticMixture, mixture_sums
from fedmoe.federation.logistic_sums import Floats
from fedmoe.moe.transform import TRANSFORMS
from fedmoe.seeding import numpy_stream

__all__ = ["EXPERIMENT", "design", "fitted", "start", "truth"]

GRID = (np.arange(128) + 0.5) / 128 * 6 - 3  # inputs, uniform in [-3, 3]
SIZES, SMALL_SIZES = (1_000, 10_000, 100_000, 1_000_000, 10_000_000), (1_000, 100_000)
REPETITIONS, SMALL_REPETITIONS = 4, 2
BOUND, SPREAD = 8.0, 0.5  # of the parameters; of the start around the truth

ROWS = {
    f"{regime}, {fit}, {transform}": (regime == "vanishing", fit == "over-fit", transform)
    for regime in ("plain", "vanishing")
    for fit in ("exact", "over-fit")
    for transform in ("identity", "tanh", "sigmoid", "softsign")
    if transform in ("identity", "tanh") or (regime, fit) == ("vanishing", "over-fit")
}
KINDS = ("gate", "slopes", "intercepts")


def truth(vanishing: bool) -> LogisticMixture:
    """Returns two experts for three classes; the first one's slopes are zero in the vanishing regime."""
    first = [(0.0, 0.0), (0.0, 1.5), (0.0, 0.0)] if vanishing else [(-2.0, 0.0), (3.0, 3.0), (0.0, 0.0)]
    second = [(-3.0, 3.0), (-1.0, 0.0), (0.0, 0.0)]
    return LogisticMixture(np.array([[-4.0, 1.0], [0.0, 0.0]]), np.array([first, second]))


def design(transform: str) -> tuple[Floats, Floats]:
    """Returns the experts' and the gate's features of every input of the grid."""
    bent = TRANSFORMS[transform](torch.from_numpy(GRID)).numpy()
    ones = np.ones_like(GRID)
    return np.stack([GRID, ones], axis=1), np.stack([bent, ones], axis=1)


def start(true: LogisticMixture, over: bool, stream: np.random.Generator) -> LogisticMixture:
    """Returns a point near the truth; over-fit, the first expert is there twice, with half the weight each."""
    ids = [0, 0, 1] if over else [0, 1]
    gate_MG = true.gate_MG[ids]
    if over:
        gate_MG[:2, 1] -= np.log(2)
    near = LogisticMixture(gate_MG, true.experts_MCF[ids])
    return near.moved(stream.normal(0, SPREAD, near.free_P().size))


def fitted(
    true: LogisticMixture, over: bool, transform: str, size: int, stream: np.random.Generator
) -> LogisticMixture:
    """Returns the maximum of the likelihood of `size` samples that EM finds from near the truth."""
    features, gate_features = design(transform)
    probs = true.probs_NC(features, gate_features)
    classes = probs.shape[1]
    counts = stream.multinomial(size, probs.ravel() / probs.sum()).astype(float)
    repeated = np.repeat(features, classes, axis=0), np.repeat(gate_features, classes, axis=0)
    labels = np.tile(np.arange(classes), len(GRID))
    found = climb(
        start(true, over, stream),
        lambda point: mixture_sums(point, *repeated, labels, counts, missing=True),
        bound=BOUND,
        max_rounds=300,
        tolerance=1e-6,
    )
    return found.point


def errors_of(found: LogisticMixture, true: LogisticMixture, transform: str) -> dict[str, float]:
    """Returns the total variation, averaged over inputs, and the error of each kind of parameter."""
    features, gate_features = design(transform)
    apart = found.probs_NC(features, gate_features) - true.probs_NC(features, gate_features)
    usage_M, usage_T = (np.exp(own.log_gate_NM(gate_features)).mean(axis=0) for own in (found, true))
    own_MQ, true_TQ = (own.experts_MCF[:, :-1].reshape(len(own.experts_MCF), -1) for own in (found, true))
    cells_M = voronoi_cells(own_MQ, true_TQ)
    last_M = cells_M == len(true_TQ) - 1
    # the gate is known up to a shift: that of the true gate, whose last row is 0
    shift = found.gate_MG[last_M, 0] @ usage_M[last_M] / usage_M[last_M].sum() if last_M.any() else 0.0
    kinds = [
        {
            "gate": own.gate_MG[:, :1] - by,
            "slopes": own.experts_MCF[:, :-1, 0],
            "intercepts": own.experts_MCF[:, :-1, 1],
        }
        for own, by in ((found, shift), (true, 0.0))
    ]
    return {
        "density": float(0.5 * np.abs(apart).sum(axis=1).mean()),
        **cell_errors(kinds[0], kinds[1], cells_M, usage_M, usage_T),
    }


def measure(row: str, seed: int, small: bool) -> Figures:
    """Returns the mean error of each kind at each size, and the slopes."""
    vanishing, over, transform = ROWS[row]
    true, figures = truth(vanishing), dict[str, float]()
    names = ("density", *KINDS)
    curves: dict[str, dict[int, float]] = {name: {} for name in (*names, "all")}
    for size in SMALL_SIZES if small else SIZES:
        streams = [numpy_stream(seed, row, size, i) for i in range(SMALL_REPETITIONS if small else REPETITIONS)]
        runs = [errors_of(fitted(true, over, transform, size, own), true, transform) for own in streams]
        for name in names:
            curves[name][size] = float(np.mean([run[name] for run in runs]))
        curves["all"][size] = sum(curves[kind][size] for kind in KINDS)
    for name, curve in curves.items():
        figures |= {f"{name} at {size}": error for size, error in curve.items()} | {name: rate(curve)}
    return figures


def draw(results: Results, figure: Figure) -> None:
    """Draws, for each regime, total variation and the parameters' error over the number of samples."""
    panels = figure.subplots(1, 3, sharex=True)
    colours = {"identity": "tab:red", "tanh": "tab:blue", "sigmoid": "tab:green", "softsign": "tab:purple"}
    shown: Sequence[tuple[str, str, str]] = (
        ("density", "vanishing", "Total variation, vanishing regime"),
        ("all", "plain", "Parameter error, plain regime"),
        ("all", "vanishing", "Parameter error, vanishing regime"),
    )
    for axes, (name, regime, title) in zip(panels, shown, strict=True):
        for row, runs in results.items():
            own, fit, transform = row.split(", ")
            if own == regime:
                curve = curve_of(runs, name)
                draw_rate(axes, curve, f"{fit}, {transform}", colours[transform], "s--" if fit == "exact" else "o-")
        axes.set_title(title, fontsize=9)
        axes.set(xlabel="samples n")
        axes.legend(fontsize=7)
    panels[0].set_ylabel("error")


EXPERIMENT = Experiment(
    name="softmax_multinomial",
    title="Slopes of log error over log n",
    rows=tuple(ROWS),
    measure=measure,
    draw=draw,
    columns={
        "density": "density (TV)",
        "all": "parameters",
        "gate": "gate slopes",
        "slopes": "expert slopes",
        "intercepts": "expert intercepts",
        "all at 10000000": "parameter error at n = 10^7",
    },
    digits={},
)

if __name__ == "__main__":
    main(EXPERIMENT)
