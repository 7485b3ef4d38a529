"""Averages of softmax gates that several clients have fitted for themselves: what a canonical form changes in them.

`python -m benchmarks.theory.voronoi_merging --output DIR`. Each client numbers the experts in its own way, and holds
the row of its own last one at 0.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import cache

import numpy as np
from matplotlib.figure import Figure
from scipy.optimize import linear_sum_assignment

from benchmarks.theory.experiment import Experiment, Figures, Results, main
from benchmarks.theory.gaussian_gating import fitted, near, samples_at
from benchmarks.theory.top_k_density import hellinger
from fedmoe.federation.logistic_sums import Floats
from fedmoe.federation.top_k_mixture import TopKMixture
from fedmoe.seeding import numpy_stream

__all__ = ["EXPERIMENT", "ROWS", "averaged", "canonical_rows", "client_fits", "matched", "truth"]

BOUNDS = (25.0, 15.0)  # of a gate's slopes and biases, twice the truth's greatest
CLIENTS, SAMPLES, SMALL_SAMPLES = 8, 2_000, 500
ROWS: Mapping[str, tuple[bool, str, bool]] = {
    "ids as they come, mean": (False, "mean", False),
    "ids as they come, canonical, mean": (False, "mean", True),
    "ids matched, mean": (True, "mean", False),
    "ids matched, canonical, mean": (True, "mean", True),
    "ids matched, rows by use": (True, "use", False),
    "ids matched, canonical, rows by use": (True, "use", True),
    "ids matched, median": (True, "median", False),
    "ids matched, canonical, median": (True, "median", True),
}
OTHERS = ("one client alone", "all samples together")


def truth() -> TopKMixture:
    """Returns three experts, each at its best in another third of the inputs in (0, 1)."""
    gate_MF = np.array([[-6.0, 2.5], [6.0, -3.5], [0.0, 0.0]])
    lines_MF = np.array([[-4.0, 3.0], [4.0, -1.0], [1.0, -2.0]])
    return TopKMixture(gate_MF, lines_MF, np.array([0.3, 0.4, 0.3]), 3)


def client_fits(seed: int, size: int) -> tuple[list[TopKMixture], Floats, TopKMixture]:
    """Returns each client's fit in its own numbering, how much each uses each expert, and the fit of all samples."""
    true, stream = truth(), numpy_stream(seed, "voronoi", "merging")
    fits, uses, samples = [], [], []
    for client in range(CLIENTS):
        middle = 0.25 + 0.5 * client / (CLIENTS - 1)  # clients see other inputs more often
        x_N = stream.beta(4 * middle, 4 * (1 - middle), size)
        features, y_N = samples_at(true, x_N, stream)
        order = stream.permutation(3)
        start = near(true, order.tolist(), stream)
        found = fitted(start, features, y_N, BOUNDS)
        fits.append(found)
        uses.append(np.exp(found.log_gate_NM(features)).sum(axis=0))
        samples.append((features, y_N))
    features, y_N = (np.concatenate(parts) for parts in zip(*samples, strict=True))
    return fits, np.stack(uses), fitted(near(true, [0, 1, 2], stream), features, y_N, BOUNDS)


def matched(fits: list[TopKMixture], uses_CM: Floats) -> tuple[list[TopKMixture], Floats]:
    """Returns the fits and uses with experts in the first client's order, by the least distance of their lines."""
    ordered, uses = [], []
    for fit, use_M in zip(fits, uses_CM, strict=True):
        apart_MM = ((fits[0].lines_MF[:, None] - fit.lines_MF[None]) ** 2).sum(axis=2)
        _, ids = linear_sum_assignment(apart_MM)
        ordered.append(replace(fit, gate_MG=fit.gate_MG[ids], lines_MF=fit.lines_MF[ids], sigma_M=fit.sigma_M[ids]))
        uses.append(use_M[ids])
    return ordered, np.stack(uses)


def canonical_rows(gate_MG: Floats) -> Floats:
    """Returns the same gate with the mean over experts taken out."""
    form_MG: Floats = gate_MG - gate_MG.mean(axis=0)
    return form_MG


def averaged(fits: list[TopKMixture], uses_CM: Floats, merge: str, form: bool) -> TopKMixture:
    """Returns the merged mixture: experts by their use in every row, gates as `merge` says.

    Args:
        fits: of the clients, in one numbering or not.
        uses_CM: how much each client uses each expert.
        merge: of gates: `"mean"`, `"use"` (each expert's row weighted by its use), `"median"` of each value.
        form: whether gates are brought into canonical form first.
    """
    gates_CMG = np.stack([canonical_rows(fit.gate_MG) if form else fit.gate_MG for fit in fits])
    share_CM = uses_CM / uses_CM.sum(axis=0)
    gate_MG = {
        "mean": gates_CMG.mean(axis=0),
        "use": np.einsum("cm,cmg->mg", share_CM, gates_CMG),
        "median": np.median(gates_CMG, axis=0),
    }[merge]
    lines_MF = np.einsum("cm,cmf->mf", share_CM, np.stack([fit.lines_MF for fit in fits]))
    sigma_M = np.einsum("cm,cm->m", share_CM, np.stack([fit.sigma_M for fit in fits]))
    return TopKMixture(gate_MG, lines_MF, sigma_M, fits[0].k)


@cache
def fits_of(seed: int, small: bool) -> tuple[list[TopKMixture], Floats, TopKMixture]:
    """Returns `client_fits`, once a seed."""
    return client_fits(seed, SMALL_SAMPLES if small else SAMPLES)


def measure(row: str, seed: int, small: bool) -> Figures:
    """Returns how far the merged density, and its gate alone, are from the truth's."""
    fits, uses_CM, together = fits_of(seed, small)
    true = truth()
    if row == OTHERS[0]:
        return {"density": float(np.mean([hellinger(fit, true) for fit in fits]))}
    if row == OTHERS[1]:
        return {"density": hellinger(together, true)}
    match, merge, form = ROWS[row]
    if match:
        fits, uses_CM = matched(fits, uses_CM)
    found = averaged(fits, uses_CM, merge, form)
    other = averaged(fits, uses_CM, merge, not form)
    return {"density": hellinger(found, true), "apart": hellinger(found, other)}


def draw(results: Results, figure: Figure) -> None:
    """Draws the merged density's distance from the truth, a line for each way of merging, a point for each seed."""
    axes = figure.subplots()
    ways = [row for row in results if "canonical" not in row]
    for form, colour, by in (("as fitted", "tab:orange", -0.15), ("canonical", "tab:blue", 0.15)):
        told = False
        for place, way in enumerate(ways):
            name = way if form == "as fitted" else ", canonical, ".join(way.rsplit(", ", 1))
            if name not in results or (way in OTHERS and form == "canonical"):
                continue
            values = [run["density"] for run in results[name]]
            shade, height = ("0.4", place) if way in OTHERS else (colour, place + by)
            label = form if way not in OTHERS and not told else None
            told |= label is not None
            axes.plot(values, [height] * len(values), "o", color=shade, alpha=0.5, markersize=5)
            axes.plot(np.mean(values), height, "|", color=shade, markersize=16, markeredgewidth=2, label=label)
    axes.set_yticks(range(len(ways)), ways)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("Hellinger distance of the merged density from the truth")
    axes.legend(title="gates are merged", frameon=False)


EXPERIMENT = Experiment(
    name="voronoi_merging",
    title="Gates of eight clients merged",
    rows=(*ROWS, *OTHERS),
    measure=measure,
    draw=draw,
    columns={"density": "distance from the truth (Hellinger)", "apart": "distance of with from without canonical form"},
    digits={"density": 4, "apart": 6},
)

if __name__ == "__main__":
    main(EXPERIMENT)
