"""Lasso MoE (arXiv 2009.10622): as many features as samples, of which five matter.

`python -m benchmarks.theory.lasso --output DIR`.
"""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from benchmarks.theory.experiment import Experiment, Figures, Results, main
from benchmarks.theory.lasso_mixture import Mixture, Penalty, fit, objective, score
from fedmoe.federation.logistic_sums import Floats
from fedmoe.seeding import numpy_stream

__all__ = ["EXPERIMENT", "ROWS", "path", "samples", "starts", "support", "truth", "values"]

FEATURES, ACTIVE, TESTED = 200, 5, 5_000  # as many samples as features
STRENGTHS = tuple(float(value) for value in np.geomspace(0.2, 0.005, 12))
RIDGES = tuple(float(value) for value in np.geomspace(1.0, 0.003, 8))
STARTS = 4

ROWS = {
    "no penalty": "none",
    "half the sum of squares, by validation": "l2",
    "L1 on g and b, by validation": "raw",
    "L1 on g and b/s, by validation": "valid",
    "L1 on g and b/s, by BIC": "bic",
    "the same, fitted again on what is left": "again",
    "fitted with the true five known": "oracle",
}


def truth(features: int) -> Mixture:
    """Returns two experts with three slopes each and a gate with two: five features of all are active."""
    gate_MP, lines_MP = np.zeros((2, features)), np.zeros((2, features))
    gate_MP[0, [0, 4]] = 2.0, -2.0
    lines_MP[0, :3], lines_MP[1, 1:4] = (2.0, -1.5, 1.0), (1.5, 1.0, -2.0)
    return Mixture(gate_MP, np.zeros(2), lines_MP, np.zeros(2), np.array([0.5, 0.5]))


def samples(true: Mixture, size: int, stream: np.random.Generator) -> tuple[Floats, Floats]:
    """Returns standard normal inputs and their outputs."""
    x_NP = stream.standard_normal((size, true.lines_MP.shape[1]))
    first_N = stream.random(size) < np.exp(true.log_gate_NM(x_NP))[:, 0]
    means_NM = x_NP @ true.lines_MP.T + true.lines0_M
    mean_N, sigma_N = np.where(first_N, means_NM[:, 0], means_NM[:, 1]), true.sigma_M[1 - first_N.astype(int)]
    return x_NP, mean_N + sigma_N * stream.standard_normal(size)


def starts(x_NP: Floats, y_N: Floats, count: int, stream: np.random.Generator) -> Iterable[Mixture]:
    """Yields mixtures whose experts are apart by lot, as far as y varies; no truth is looked at."""
    size = x_NP.shape[1]
    for _ in range(count):
        lines_MP = stream.normal(0, 0.3, (2, size)) * (np.abs(x_NP.T @ y_N) / len(y_N) > 0.15)
        sigma_M = np.full(2, y_N.std())
        yield Mixture(np.zeros((2, size)), np.zeros(2), lines_MP, stream.normal(0, 1, 2) * y_N.std(), sigma_M)


def path(
    penalties: Sequence[Penalty], x_NP: Floats, y_N: Floats, count: int, stream: np.random.Generator
) -> list[Mixture]:
    """Returns each penalty's fit: the best, by the penalised objective, of some starts and of the last one's fit."""
    found: list[Mixture] = []
    for penalty in penalties:
        begun = [*starts(x_NP, y_N, count, stream), *found[-1:]]
        found.append(best([fit(start, penalty, x_NP, y_N) for start in begun], penalty, x_NP, y_N))
    return found


def best(fits: Sequence[Mixture], penalty: Penalty, x_NP: Floats, y_N: Floats) -> Mixture:
    """Returns the one with the smallest penalised objective."""
    return min(fits, key=lambda own: objective(own, penalty, x_NP, y_N))


@dataclass(frozen=True)
class Run:
    """One seed's data and its paths, each from the strongest penalty to the weakest.

    Attributes:
        train: inputs and outputs, as many as features.
        valid: as many again, to choose the strength by.
        test: many.
        l1: by strength, on b/s.
        raw: by strength, on b.
        l2: by strength.
    """

    train: tuple[Floats, Floats]
    valid: tuple[Floats, Floats]
    test: tuple[Floats, Floats]
    l1: tuple[Mixture, ...]
    raw: tuple[Mixture, ...]
    l2: tuple[Mixture, ...]


@cache
def run(seed: int, small: bool) -> Run:
    """Returns the seed's data and paths."""
    stream, size = numpy_stream(seed, "lasso"), FEATURES
    train, valid, test = (samples(truth(size), count, stream) for count in (size, size, TESTED))
    strengths, count = STRENGTHS[3:6] if small else STRENGTHS, 3 if small else STARTS

    def fits(penalties: Iterable[Penalty]) -> tuple[Mixture, ...]:
        return tuple(path(list(penalties), *train, count, numpy_stream(seed, "lasso", "starts")))

    return Run(
        train,
        valid,
        test,
        l1=fits(Penalty(strength) for strength in strengths),
        raw=fits(Penalty(strength, scaled=False) for strength in strengths),
        l2=fits(Penalty(strength, "l2") for strength in (RIDGES[3:4] if small else RIDGES)),
    )


def chosen(row: str, own: Run, seed: int) -> Mixture:
    """Returns the row's fit."""
    kind, size = ROWS[row], own.train[0].shape[1]
    if kind in ("l2", "raw", "valid"):
        return min({"l2": own.l2, "raw": own.raw, "valid": own.l1}[kind], key=lambda fit: score(fit, *own.valid))
    sparse = min(own.l1, key=lambda fit: 2 * len(own.train[1]) * score(fit, *own.train) + values(fit) * np.log(size))
    if kind == "bic":
        return sparse
    if kind == "again":
        return among(support(sparse), sparse, own)
    free, stream = Penalty(0.0), numpy_stream(seed, "lasso", "starts")
    if kind == "none":
        return path([free], *own.train, STARTS, stream)[0]
    return among(np.arange(ACTIVE), truth(size), own)


def support(mixture: Mixture) -> NDArray[np.int64]:
    """Returns the features that gate or experts look at."""
    return np.flatnonzero((mixture.gate_MP != 0).any(axis=0) | (mixture.lines_MP != 0).any(axis=0))


def values(mixture: Mixture) -> int:
    """Returns how many slopes are not 0."""
    return int(np.count_nonzero(mixture.gate_MP) + np.count_nonzero(mixture.lines_MP))


def among(features: NDArray[np.int64], start: Mixture, own: Run) -> Mixture:
    """Returns the fit without a penalty from `start` with these features alone, in all features."""
    x_NP, y_N = own.train
    less = replace(start, gate_MP=start.gate_MP[:, features], lines_MP=start.lines_MP[:, features])
    found = fit(less, Penalty(0.0), x_NP[:, features], y_N)
    gate_MP, lines_MP = np.zeros_like(start.gate_MP), np.zeros_like(start.lines_MP)
    gate_MP[:, features], lines_MP[:, features] = found.gate_MP, found.lines_MP
    return replace(found, gate_MP=gate_MP, lines_MP=lines_MP)


def measure(row: str, seed: int, small: bool) -> Figures:
    """Returns the held-out score, and which features and slopes are found."""
    own = run(seed, small)
    found, true = chosen(row, own, seed), truth(own.train[0].shape[1])
    slopes, wanted = (np.concatenate([one.gate_MP[:1], one.lines_MP]) for one in (found, true))
    figures = {
        "score": score(found, *own.test),
        "trained": score(found, *own.train),
        "active": float(len(set(support(found)) & set(range(ACTIVE)))),
        "inactive": float(len(set(support(found)) - set(range(ACTIVE)))),
        "zeroed": 100 * float((slopes[wanted == 0] == 0).mean()),
        "truth": score(true, *own.test),
    }
    if ROWS[row] == "valid":
        counts = [values(fit) for fit in own.l1]
        figures["falls"] = float(sum(after < before for before, after in itertools.pairwise(counts)))
        for strength, fit in zip(STRENGTHS[3:6] if small else STRENGTHS, own.l1, strict=True):
            figures |= {f"score at {strength:.4f}": score(fit, *own.test), f"values at {strength:.4f}": values(fit)}
            figures[f"active at {strength:.4f}"] = len(set(support(fit)) & set(range(ACTIVE)))
    return figures


def draw(results: Results, figure: Figure) -> None:
    """Draws the path: held-out score, and slopes that are not 0, over the strength."""
    left, right = figure.subplots(1, 2)
    runs = results["L1 on g and b/s, by validation"]
    names = [key.removeprefix("score at ") for key in runs[0] if key.startswith("score at ")]
    for axes, what, colour in ((left, "score", "C0"), (right, "values", "C3")):
        table = np.array([[own[f"{what} at {name}"] for name in names] for own in runs])
        for row in table:
            axes.plot([float(name) for name in names], row, color=colour, alpha=0.3, lw=1)
        axes.plot([float(name) for name in names], np.median(table, axis=0), "o-", color=colour, label="L1, median")
        axes.set_xscale("log")
        axes.set_xlabel("lambda")
        axes.invert_xaxis()
    lines = {
        "no penalty": "C1",
        "half the sum of squares, by validation": "C2",
        "fitted with the true five known": "0.4",
    }
    for row, colour in lines.items():
        level = float(np.median([own["score"] for own in results[row]]))
        left.axhline(level, color=colour, ls="--", lw=1, label=row)
    left.set_yscale("log")
    left.set_ylabel("negative log-likelihood of new samples, nats")
    left.legend(fontsize=8, frameon=False, loc=(0.18, 0.7))
    right.set_yscale("log")
    right.set_ylabel("slopes that are not 0, of 600 (8 in truth)")


EXPERIMENT = Experiment(
    name="lasso",
    title="Fit",
    rows=tuple(ROWS),
    measure=measure,
    draw=draw,
    columns={
        "score": "new samples, nats",
        "trained": "training samples, nats",
        "active": "active features found, of 5",
        "inactive": "inactive ones taken, of 195",
        "zeroed": "inactive slopes at 0, %",
    },
    digits={"active": 1, "inactive": 1, "zeroed": 1},
)

if __name__ == "__main__":
    main(EXPERIMENT)
