"""Self-Tuning Networks (arXiv 1903.03088): ridge regression that finds its own strength of regularisation.

The one hyper-parameter is h = log lambda. Weights learn on the training part to be what they should be for every h in a
neighbourhood; h follows the gradient of the error on the validation part through them. The optimum is known from the
closed solution on a grid.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import softplus

from benchmarks.theory.experiment import Experiment, Figures, Results, main
from fedmoe.moe.best_response import BestResponse
from fedmoe.seeding import torch_stream

__all__ = ["EXPERIMENT", "GRID", "ROWS", "Ridge", "best_on_grid", "ridge_data", "ridge_weights", "tuned"]

TRAIN, VALID, TEST, FEATURES, NOISE = 60, 400, 4000, 40, 1.0
GRID = np.linspace(-9.0, 5.0, 281)  # of log lambda
STEPS, TRAIN_STEPS = 2000, 2  # outer steps; steps on the training part before each on the validation part
RATE, HYPER_RATE = 1e-2, 1e-2  # of Adam, for the weights and for h
SPREAD, ENTROPY = 0.5, 1e-3  # of the drawn h at first; weight of its logarithm
MARKS = 40  # of the curve


@dataclass(frozen=True)
class Row:
    """Where log lambda starts, and whether weights see it drawn around where it stands."""

    start: float
    perturbed: bool = True


ROWS: Mapping[str, Row] = {
    **{f"from log lambda = {start:g}": Row(start) for start in (-8.0, -5.0, -2.0, 1.0, 4.0)},
    **{f"not drawn around, from {start:g}": Row(start, perturbed=False) for start in (-8.0, 4.0)},
}


@dataclass(frozen=True)
class Ridge:
    """A regression's three parts: x (N, D) and y (N,) each."""

    train: tuple[Tensor, Tensor]
    valid: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


def ridge_data(seed: int) -> Ridge:
    """Returns `y = w.x + noise`, few training samples for its noise, so that the best lambda lies inside the grid."""
    stream = torch_stream(seed, "self_tuning", "ridge")
    w_D = torch.randn(FEATURES, generator=stream) / FEATURES**0.5

    def part(size: int) -> tuple[Tensor, Tensor]:
        x_ND = torch.randn(size, FEATURES, generator=stream)
        return x_ND, x_ND @ w_D + NOISE * torch.randn(size, generator=stream)

    return Ridge(part(TRAIN), part(VALID), part(TEST))


def ridge_weights(data: Ridge, log_strength: float) -> Tensor:
    """Returns the w that is best on the training part: of `mean (y - w.x)^2 + lambda |w|^2`, in closed form."""
    x_ND, y_N = (part.double() for part in data.train)
    gram_DD = x_ND.T @ x_ND / len(y_N) + np.exp(log_strength) * torch.eye(FEATURES, dtype=torch.float64)
    w_D: Tensor = torch.linalg.solve(gram_DD, x_ND.T @ y_N / len(y_N))
    return w_D


def error(part: tuple[Tensor, Tensor], w_D: Tensor) -> float:
    """Returns the mean squared error of `w.x`."""
    return float((part[1].double() - part[0].double() @ w_D.double()).square().mean())


def best_on_grid(data: Ridge) -> tuple[float, float]:
    """Returns the log lambda of `GRID` with the smallest error on the validation part, and that error."""
    errors = [error(data.valid, ridge_weights(data, value)) for value in GRID]
    return float(GRID[int(np.argmin(errors))]), min(errors)


def tuned(data: Ridge, row: Row, seed: int, steps: int) -> NDArray[np.float64]:
    """Returns log lambda before each outer step and at the end."""
    stream = torch_stream(seed, "self_tuning", "draws")
    layer = BestResponse(FEATURES, 1, 1)
    with torch.no_grad():
        for name, value in layer.named_parameters():
            if name != "scale":
                value.copy_(0.01 * torch.randn(value.shape, generator=stream))
    hyper = nn.Parameter(torch.tensor([[row.start]]))
    spread = nn.Parameter(torch.tensor([[SPREAD]]).expm1().log())  # softplus's inverse
    weights = torch.optim.Adam(layer.parameters(), RATE, fused=True)
    outer = torch.optim.Adam([hyper, spread], HYPER_RATE)

    def drawn(count: int) -> Tensor:
        own = softplus(spread) * torch.randn(count, 1, generator=stream)
        return hyper + own if row.perturbed else hyper.expand(count, 1)

    def squares(part: tuple[Tensor, Tensor], hyper_NH: Tensor) -> Tensor:
        error_N: Tensor = part[1] - layer(part[0], hyper_NH)[:, 0]
        return error_N.square()

    path = []
    for _ in range(steps):
        path.append(float(hyper.detach()))
        for _ in range(TRAIN_STEPS):
            weights.zero_grad()
            hyper_NH = drawn(TRAIN).detach()
            penalty_N = hyper_NH[:, 0].exp() * layer.weights(hyper_NH).square().sum(dim=(1, 2))
            (squares(data.train, hyper_NH) + penalty_N).mean().backward()  # type: ignore[no-untyped-call]
            weights.step()
        outer.zero_grad()
        loss = squares(data.valid, drawn(VALID)).mean() - ENTROPY * softplus(spread).log().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        outer.step()
    return np.array([*path, float(hyper.detach())])


def measure(row: str, seed: int, small: bool) -> Figures:
    """Returns where log lambda came to, how far from the grid's best, and how much more error (percent) it makes.

    Errors are those of the closed solution under each lambda, so that nothing but lambda is compared.
    """
    kind, data = ROWS[row], ridge_data(seed)
    path = tuned(data, kind, seed, 1200 if small else STEPS)
    best, least = best_on_grid(data)
    w_D, of_best = ridge_weights(data, path[-1]), error(data.test, ridge_weights(data, best))
    curve = {f"path/{mark}": float(path[mark * (len(path) - 1) // MARKS]) for mark in range(MARKS + 1)}
    return {
        "end": float(path[-1]),
        "best": best,
        "off": float(path[-1]) - best,
        "away": abs(float(path[-1]) - best),
        "valid": 100 * (error(data.valid, w_D) / least - 1),
        "test": 100 * (error(data.test, w_D) / of_best - 1),
        "fixed": 100 * (error(data.test, ridge_weights(data, kind.start)) / of_best - 1),
        **curve,
    }


def draw(results: Results, figure: Figure) -> None:
    """Draws how far log lambda is from the grid's best, over the steps, a line a seed."""
    panel = figure.subplots()
    for number, (row, runs) in enumerate(results.items()):
        for seed, run in enumerate(runs):
            steps = np.linspace(0, 1, MARKS + 1)
            away = [run[f"path/{mark}"] - run["best"] for mark in range(MARKS + 1)]
            style = "-" if ROWS[row].perturbed else ":"
            panel.plot(steps, away, style, color=f"C{number}", linewidth=1, label=row if seed == 0 else None)
    panel.axhline(0, color="0.3", linewidth=1, linestyle="--")
    panel.set_xlabel("share of the steps")
    panel.set_ylabel("log lambda less the grid's best")
    figure.legend(*panel.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False, fontsize=8)


EXPERIMENT = Experiment(
    name="self_tuning",
    title="log lambda tuned",
    rows=tuple(ROWS),
    measure=measure,
    draw=draw,
    columns={
        "end": "ends at",
        "best": "grid's best",
        "off": "end less best",
        "away": "the same, without sign",
        "valid": "validation error above the grid's, %",
        "test": "test error above the grid's, %",
        "fixed": "the same, lambda left at its start, %",
    },
    digits=dict.fromkeys(("valid", "test", "fixed"), 1),
)

if __name__ == "__main__":
    main(EXPERIMENT)
