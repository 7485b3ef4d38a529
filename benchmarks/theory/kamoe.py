"""KAMoE (arXiv 2409.15161): does it matter what a mixture's gate is made of? R2 of regressions on three sets of data.

Three experts of one hidden layer each, `sum_i w_i(x) E_i(x)`, trained from end to end; against one such expert alone,
and against one as wide as the mixture has parameters.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from benchmarks.theory.experiment import Experiment, Figures, Results, main
from benchmarks.theory.regression_sets import SETS, RegressionSet, regression_set
from fedmoe.moe.construction import build_gate
from fedmoe.moe.gate import Gate, GateSpec
from fedmoe.moe.gates.softmax import SoftmaxGate

__all__ = ["EXPERIMENT", "Blend", "fitted_r2"]

NUM_EXPERTS = 3
WIDTHS = (10, 100)
EPOCHS, BATCH, LEARNING_RATE = 150, 128, 1e-2


class Blend(nn.Module):
    """`sum_i w_i(x) E_i(x)` over experts of one hidden layer with ReLU.

    Args:
        gate: gives the scores.
        activation: `torch.softmax`, or `sigmoid`, whose weights are not divided by their sum, as KAMoE has it.
        in_features: D.
        width: of each expert's hidden layer.
    """

    def __init__(self, gate: Gate, activation: str, in_features: int, width: int) -> None:
        super().__init__()
        self.gate, self.activation = gate, activation
        self.hidden = nn.Linear(in_features, NUM_EXPERTS * width)  # all experts' as one layer: a third of the calls
        self.out_MW = nn.Parameter(torch.empty(NUM_EXPERTS, width).uniform_(-(width**-0.5), width**-0.5))
        self.bias_M = nn.Parameter(torch.zeros(NUM_EXPERTS))

    def forward(self, x_BD: Tensor) -> Tensor:
        """Returns out_B1."""
        scores_BM = self.gate.scores(x_BD)
        weights_BM = scores_BM.softmax(dim=1) if self.activation == "softmax" else scores_BM.sigmoid()
        hidden_BMW = self.hidden(x_BD).relu().view(len(x_BD), *self.out_MW.shape)
        out_BM = (hidden_BMW * self.out_MW).sum(dim=2) + self.bias_M
        out_B1: Tensor = (weights_BM * out_BM).sum(dim=1, keepdim=True)
        return out_B1


@dataclass(frozen=True)
class Row:
    """A model: the name of its gate (`""`: it is one network alone), and what makes weights of scores."""

    gate: str = ""
    activation: str = "softmax"
    widened: bool = False


ROWS = {
    "one MLP, of an expert's width": Row(),
    "one MLP, of the mixture's parameters": Row(widened=True),
    "3 experts, linear gate": Row("softmax"),
    "3 experts, gate `mlp`": Row("mlp"),
    "3 experts, gate `grn`": Row("grn"),
    "3 experts, gate `grkan`": Row("grkan"),
    "3 experts, gate `grkan`, sigmoid": Row("grkan", "sigmoid"),
}


def perceptron(in_features: int, width: int) -> nn.Module:
    """Returns one hidden layer with ReLU, one output."""
    return nn.Sequential(nn.Linear(in_features, width), nn.ReLU(), nn.Linear(width, 1))


def model_of(row: Row, in_features: int, width: int, seed: int) -> nn.Module:
    """Returns a row's model, its first weights from the seed."""
    torch.manual_seed(seed)
    if row.gate:
        spec = GateSpec(in_features=in_features, num_experts=NUM_EXPERTS, hidden=width)
        # the linear one takes its first weights from the stream that the experts' go on with
        gate = SoftmaxGate(spec) if row.gate == "softmax" else build_gate(row.gate, spec, seed)
        return Blend(gate, row.activation, in_features, width)
    if row.widened:
        width = round((parameters(model_of(Row("grkan"), in_features, width, seed)) - 1) / (in_features + 2))
        torch.manual_seed(seed)
    return perceptron(in_features, width)


def parameters(model: nn.Module) -> int:
    """Returns how many numbers are learnt."""
    return sum(parameter.numel() for parameter in model.parameters())


def fitted_r2(model: nn.Module, data: RegressionSet, seed: int, epochs: int) -> float:
    """Returns R2 on the test part, by the weights of the epoch that is best on the validation part.

    Adam on batches of 128, squared error, the learning rate falling from 0.01 to 0 as a cosine.
    """
    (x_ND, y_N), stream = data.train, torch.Generator().manual_seed(seed)
    adam = torch.optim.Adam(model.parameters(), LEARNING_RATE, fused=True)
    fall = torch.optim.lr_scheduler.CosineAnnealingLR(adam, epochs)
    best, r2 = float("inf"), float("nan")
    for _ in range(epochs):
        for rows in torch.split(torch.randperm(len(y_N), generator=stream), BATCH):
            adam.zero_grad()
            squared_error(model, (x_ND[rows], y_N[rows])).backward()  # type: ignore[no-untyped-call]
            adam.step()
        fall.step()
        with torch.no_grad():
            error = float(squared_error(model, data.valid))
            if error < best:
                best, r2 = error, 1 - float(squared_error(model, data.test) / data.test[1].var(unbiased=False))
    return r2


def squared_error(model: Callable[[Tensor], Tensor], part: tuple[Tensor, Tensor]) -> Tensor:
    """Returns the mean squared error."""
    return (model(part[0])[:, 0] - part[1]).square().mean()


def measure(row: str, seed: int, small: bool) -> Figures:
    """Returns R2 of a model on each set at each width, and its parameters on 10 features."""
    figures: dict[str, float] = {}
    for width in WIDTHS[:1] if small else WIDTHS:
        for name in SETS[:1] if small else SETS:
            data = regression_set(name, seed)
            model = model_of(ROWS[row], data.train[0].shape[1], width, seed)
            figures[f"{name}/{width}"] = fitted_r2(model, data, seed, 40 if small else EPOCHS)
        figures[f"parameters/{width}"] = parameters(model_of(ROWS[row], 10, width, seed))
    return figures


def draw(results: Results, figure: Figure) -> None:
    """Draws R2, mean and deviation over seeds: a panel a set, a line a model."""
    names = [name for name in SETS if f"{name}/{WIDTHS[0]}" in next(iter(results.values()))[0]]
    panels = np.atleast_1d(figure.subplots(1, len(names), sharey=True))
    places = np.arange(len(results))[::-1]
    for panel, name in zip(panels, names, strict=True):
        for width, shift, colour in zip(WIDTHS, (0.12, -0.12), ("C0", "C1"), strict=True):
            runs = [[run.get(f"{name}/{width}", np.nan) for run in own] for own in results.values()]
            panel.errorbar(
                np.mean(runs, axis=1),
                places + shift,
                xerr=np.std(runs, axis=1, ddof=min(1, len(runs[0]) - 1)),
                fmt="o",
                color=colour,
                label=f"{width} units",
            )
        panel.set_title(name)
        panel.set_xlabel("$R^2$ on test samples")
        panel.grid(axis="x", alpha=0.3)
    panels[0].set_yticks(places, [row.replace("`", "") for row in results])
    panels[0].legend(loc="lower left", frameon=False)


EXPERIMENT = Experiment(
    name="kamoe",
    title="What a mixture's gate is made of",
    rows=tuple(ROWS),
    measure=measure,
    draw=draw,
    columns={f"{name}/{width}": f"{name}, {width} units" for width in WIDTHS for name in ("parameters", *SETS)},
    digits={f"{name}/{width}": 3 for width in WIDTHS for name in SETS} | {f"parameters/{width}": 0 for width in WIDTHS},
)

if __name__ == "__main__":
    main(EXPERIMENT)
