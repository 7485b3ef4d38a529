"""How fast linear Gaussian experts under a top-K sparse softmax gate are recovered, with the right K and with others.

`python -m benchmarks.theory.top_k --output DIR`: arXiv 2309.13850; the truth is that of its simulation.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from benchmarks.theory.experiment import Experiment, Figures, Results, main
from benchmarks.theory.rates import curve_of, draw_rate, rate
from benchmarks.theory.top_k_density import hellinger, nodes_of
from fedmoe.evaluation.recovery import cell_errors, voronoi_cells
from fedmoe.federation.logistic_sums import Floats
from fedmoe.federation.top_k_ascent import climb_top_k
from fedmoe.federation.top_k_mixture import TopKMixture, top_k_sums
from fedmoe.seeding import numpy_stream

__all__ = ["EXPERIMENT", "ROWS", "Case", "fitted", "samples", "start", "truth"]

SIZES, SMALL_SIZES = (300, 1_000, 3_000, 10_000, 30_000), (300, 2_000)
STYLES = {1: "o-", 2: "s--"}  # of a fit, of one whose gate is held or bounded
REPETITIONS, SMALL_REPETITIONS = 2, 1


@dataclass(frozen=True)
class Case:
    """A fit of `experts` experts with top-`k` to samples of the truth with top-`true_k`.

    Attributes:
        true_k: K of the truth.
        experts: fitted ones.
        k: K of the fit.
        fit_gate: whether the gate is fitted, or held at the truth's.
        bound: largest absolute value of a parameter of a fitted gate.
    """

    true_k: int
    experts: int
    k: int
    fit_gate: bool = True
    bound: float = float("inf")


ROWS = {
    "true K=1: k=2, K=1": Case(1, 2, 1),
    "true K=1: k=3, K=1": Case(1, 3, 1),
    "true K=1: k=3, K=2": Case(1, 3, 2),
    "true K=1: k=3, K=2, bounded": Case(1, 3, 2, bound=30.0),
    "true K=2: k=2, K=2": Case(2, 2, 2),
    "true K=2: k=3, K=3": Case(2, 3, 3),
    "true K=2: k=3, K=2": Case(2, 3, 2),
    "true K=2: k=3, K=3, gate held": Case(2, 3, 3, fit_gate=False),
    "true K=2: k=3, K=2, gate held": Case(2, 3, 2, fit_gate=False),
}


def truth(k: int) -> TopKMixture:
    """Returns two experts on (0, 1); with K = 1 the first one has all inputs above 0.32."""
    gate, lines = [[25.0, -8.0], [0.0, 0.0]], [[-20.0, 15.0], [20.0, -5.0]]
    return TopKMixture(np.array(gate), np.array(lines), np.array([0.3, 0.4]), k)


def samples(true: TopKMixture, size: int, stream: np.random.Generator) -> tuple[Floats, Floats]:
    """Returns inputs with a constant (N, 2), uniform in (0, 1), and outputs (N)."""
    features = np.stack([stream.random(size), np.ones(size)], axis=1)
    shares = np.exp(true.log_gate_NM(features)).cumsum(axis=1)
    expert = (stream.random((size, 1)) > shares[:, :-1]).sum(axis=1)
    means = (features * true.lines_MF[expert]).sum(axis=1)
    return features, means + true.sigma_M[expert] * stream.normal(size=size)


def start(case: Case, true: TopKMixture, stream: np.random.Generator) -> TopKMixture:
    """Returns a point near the truth; a third expert is a copy of the first one, and they have half its weight each."""
    ids = [0, 0, 1] if case.experts == 3 else [0, 1]
    gate, lines = true.gate_MG[ids], true.lines_MF[ids] + stream.normal(0, 0.3, (len(ids), 2))
    if case.experts == 3:
        gate[:2, 1] -= np.log(2)
    if case.fit_gate:
        gate[:-1] += stream.normal(0, (1.0, 0.3), gate[:-1].shape)
    return TopKMixture(gate, lines, true.sigma_M[ids] * np.exp(stream.normal(0, 0.1, len(ids))), case.k)


def fitted(case: Case, size: int, stream: np.random.Generator) -> TopKMixture:
    """Returns what EM makes of `size` samples."""
    features, y = samples(truth(case.true_k), size, stream)

    def likelihoods(mixture: TopKMixture, gates: Sequence[Floats]) -> Sequence[float]:
        density_NM = np.exp(np.maximum(mixture.log_experts_NM(features, y), -700))
        return [
            float(np.log((np.exp(mixture.with_gate(gate).log_gate_NM(features)) * density_NM).sum(axis=1)).sum())
            for gate in gates
        ]

    first = start(case, truth(case.true_k), stream)
    found, _ = climb_top_k(
        first,
        lambda mixture: top_k_sums(mixture, features, features, y),
        likelihoods,
        max_rounds=200,
        tolerance=1e-4,
        fit_gate=case.fit_gate,
        bound=case.bound,
    )
    return found


def errors_of(found: TopKMixture, true: TopKMixture) -> dict[str, float]:
    """Returns the Hellinger distance and the experts' errors."""
    x, weight = nodes_of((found, true))
    features = np.stack([x, np.ones_like(x)], axis=1)
    usage = [weight @ np.exp(own.log_gate_NM(features)) for own in (found, true)]
    own, wanted = (np.c_[one.lines_MF, one.sigma_M] for one in (found, true))
    errors = cell_errors({"experts": own}, {"experts": wanted}, voronoi_cells(own, wanted), usage[0], usage[1])
    return {"density": hellinger(found, true), **errors}


def measure(row: str, seed: int, small: bool) -> Figures:
    """Returns the mean errors at each size, and their slopes."""
    case = ROWS[row]
    names = ("density", "experts")
    curves: dict[str, dict[int, float]] = {name: {} for name in names}
    for size in SMALL_SIZES if small else SIZES:
        streams = [numpy_stream(seed, row, size, i) for i in range(SMALL_REPETITIONS if small else REPETITIONS)]
        runs = [errors_of(fitted(case, size, own), truth(case.true_k)) for own in streams]
        for name in names:
            curves[name][size] = float(np.mean([run[name] for run in runs]))
    figures = {name: rate(curve) for name, curve in curves.items()}
    for name, curve in curves.items():
        figures |= {f"{name} at {size}": error for size, error in curve.items()}
        figures[f"{name} in the end"] = list(curve.values())[-1]
    return figures


def draw(results: Results, figure: Figure) -> None:
    """Draws Hellinger distance and expert error over the number of samples, for either truth."""
    panels = figure.subplots(1, 3, sharex=True)
    colours = ("black", "tab:blue", "tab:red", "tab:green", "tab:orange")
    shown = (("density", 1, "Hellinger distance, true K = 1"), ("density", 2, "Hellinger distance, true K = 2"))
    for axes, (name, true_k, title) in zip(panels, (*shown, ("experts", 1, "Experts' error, true K = 1")), strict=True):
        rows = [row for row in results if ROWS[row].true_k == true_k]
        for row, colour in zip(rows, colours, strict=False):
            curve = curve_of(results[row], name)
            draw_rate(axes, curve, row.split(": ")[1], colour, STYLES[row.count(",")])
        axes.set_title(title, fontsize=9)
        axes.set(xlabel="samples n")
        axes.legend(fontsize=7)
    panels[0].set_ylabel("error")


EXPERIMENT = Experiment(
    name="top_k",
    title="Slopes of log error over log n",
    rows=tuple(ROWS),
    measure=measure,
    draw=draw,
    columns={
        "density": "density (Hellinger)",
        "density in the end": "density error at the largest n",
        "experts": "experts' parameters",
        "experts in the end": "their error at the largest n",
    },
    digits={"density in the end": 4, "experts in the end": 4},
)

if __name__ == "__main__":
    main(EXPERIMENT)
