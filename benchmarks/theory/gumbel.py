"""GG MoE (arXiv 2502.03608): a gate with Gumbel noise, on tables and in a federated run with and without anchors.

Tables: a mixture of five experts of one hidden layer, whole mixtures trained from end to end, against one network of as
many parameters. Federated: FedJETs on the digits, two of five experts for a client.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn.functional import nll_loss

from benchmarks.theory.experiment import Experiment, Figures, Results, main
from benchmarks.theory.federated import federated_run, summary_of
from benchmarks.theory.tables import TABLES, LabelledTable, labelled_table
from fedmoe.moe.construction import build_gate
from fedmoe.moe.gate import GateSpec
from fedmoe.moe.gates.gumbel import GumbelGate
from fedmoe.moe.mixture import mix

__all__ = ["EXPERIMENT", "ROWS", "Blend", "spread_of_draws", "told_errors"]

EXPERTS, WIDTH, HIDDEN = 5, 16, 16
EPOCHS, BATCH, LEARNING_RATE = 120, 64, 1e-2
ROUNDS = 40
DRAWS = (1, 10, 100)
TELLING = 100  # draws by which the routing's uncertainty is asked for


@dataclass(frozen=True)
class Row:
    """A gate by name with its arguments; without a name it is one network."""

    gate: str = ""
    arguments: Mapping[str, Any] | None = None


ROWS: Mapping[str, Row] = {
    "one network of as many parameters": Row(),
    "gate `mlp`": Row("mlp"),
    "gate `gumbel`, tau 1": Row("gumbel", {"temperature": 1.0}),
    "gate `gumbel`, tau 0.5": Row("gumbel", {"temperature": 0.5}),
}


class Blend(nn.Module):
    """`sum_i g_i(x) softmax(E_i(x))` over experts of one hidden layer with ReLU; what it reads is followed by lots.

    Args:
        row: which gate.
        in_features: D.
        classes: C.
        seed: of the gate's first weights.
    """

    def __init__(self, row: Row, in_features: int, classes: int, seed: int) -> None:
        super().__init__()
        spec = GateSpec(
            in_features=in_features, num_experts=EXPERTS, hidden=HIDDEN, arguments=dict(row.arguments or {})
        )
        self.gate = build_gate(row.gate, spec, seed)
        self.experts = nn.ModuleList(perceptron(in_features, WIDTH, classes) for _ in range(EXPERTS))

    def forward(self, x_BD: Tensor, stream: torch.Generator) -> Tensor:
        """Returns log_probs_BC, with fresh lots for the gate."""
        lots_BL = torch.rand(len(x_BD), self.gate.draws, generator=stream)
        weights_BM = torch.softmax(self.gate.scores(torch.cat([x_BD, lots_BL], dim=1)), dim=1)
        return mix(torch.stack([expert(x_BD) for expert in self.experts]), weights_BM)


class Alone(nn.Module):
    """One network with the mixture's number of parameters."""

    def __init__(self, in_features: int, classes: int) -> None:
        super().__init__()
        wanted = sum(p.numel() for p in Blend(ROWS["gate `mlp`"], in_features, classes, 0).parameters())
        self.network = perceptron(in_features, round((wanted - classes) / (in_features + classes + 1)), classes)

    def forward(self, x_BD: Tensor, stream: torch.Generator) -> Tensor:
        """Returns log_probs_BC."""
        return torch.log_softmax(self.network(x_BD), dim=1)


def perceptron(in_features: int, width: int, classes: int) -> nn.Module:
    """Returns one hidden layer with ReLU."""
    return nn.Sequential(nn.Linear(in_features, width), nn.ReLU(), nn.Linear(width, classes))


def fitted(model: nn.Module, table: LabelledTable, seed: int, epochs: int) -> nn.Module:
    """Returns the model trained by Adam, with the weights of the epoch that is best on the part to choose on."""
    (x_ND, y_N), stream = table.train, torch.Generator().manual_seed(seed)
    adam = torch.optim.Adam(model.parameters(), LEARNING_RATE, fused=True)
    best, state = float("inf"), {name: value.clone() for name, value in model.state_dict().items()}
    for _ in range(epochs):
        model.train()
        for rows in torch.split(torch.randperm(len(y_N), generator=stream), BATCH):
            adam.zero_grad()
            nll_loss(model(x_ND[rows], stream), y_N[rows]).backward()  # type: ignore[no-untyped-call]
            adam.step()
        with torch.no_grad():
            loss = float(nll_loss(model.eval()(table.valid[0], stream), table.valid[1]))
        if loss < best:
            best, state = loss, {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(state)
    return model.eval()


@torch.no_grad()
def spread_of_draws(model: Blend, x_BD: Tensor, seed: int, draws: int, times: int = 50) -> float:
    """Returns the variance of predicted probabilities over repetitions of serving, each with so many draws."""
    gate, model.gate = model.gate, with_draws(model, draws)
    stream = torch.Generator().manual_seed(seed)
    found = torch.stack([model(x_BD, stream).exp() for _ in range(times)])
    model.gate = gate
    return float(found.var(dim=0).mean())


def with_draws(model: Blend, draws: int) -> GumbelGate:
    """Returns the model's gate with another number of draws in serving."""
    spec = model.gate.spec
    served = build_gate("gumbel", GateSpec(**{**vars(spec), "arguments": {**spec.arguments, "samples": draws}}), 0)
    served.load_state_dict(model.gate.state_dict())
    assert isinstance(served, GumbelGate)
    return served.eval()


@torch.no_grad()
def told_errors(model: Blend, table: LabelledTable, seed: int) -> Figures:
    """Returns how well doubt tells errors on the test part: that of the routing, and that of the answer beside it.

    Each is the area under the ROC curve, the chance (0 to 1) that a wrong answer has more doubt than a right one, 0.5
    by lot: `routing` of the spread over 100 draws, `answer` of 1 less the highest probability. Empty where all answers
    are right, or all wrong.
    """
    x_BD, y_B = table.test
    stream = torch.Generator().manual_seed(seed)
    gate = with_draws(model, TELLING)
    found_BC = model(x_BD, stream).exp()
    wrong_B = found_BC.argmax(dim=1) != y_B
    if wrong_B.all() or not wrong_B.any():
        return {}
    spread_B = gate.spread(torch.cat([x_BD, torch.rand(len(x_BD), gate.draws, generator=stream)], dim=1))
    doubts = {"routing": spread_B, "answer": 1 - found_BC.max(dim=1).values}
    return {name: float(roc_auc_score(wrong_B.numpy(), doubt_B.numpy())) for name, doubt_B in doubts.items()}


def on_tables(own: Row, seed: int, small: bool) -> dict[str, float]:
    """Returns test accuracy on each table in percent, and of the gate with noise how its draws spread."""
    figures: dict[str, float] = {}
    for name in TABLES[1:2] if small else TABLES:
        table = labelled_table(name, seed)
        features = table.train[0].shape[1]
        torch.manual_seed(seed)
        model = Blend(own, features, table.classes, seed) if own.gate else Alone(features, table.classes)
        fitted(model, table, seed, 40 if small else EPOCHS)
        with torch.no_grad():
            answers = model(table.test[0], torch.Generator().manual_seed(seed)).argmax(dim=1)
        figures[name] = 100 * float((answers == table.test[1]).double().mean())
        if not isinstance(model, Blend) or own.gate != "gumbel":
            continue
        figures |= {f"{doubt}/{name}": value for doubt, value in told_errors(model, table, seed).items()}
        if name == "wine":
            for draws in DRAWS:
                figures[f"variance/{draws}"] = spread_of_draws(model, table.test[0], seed, draws)
    return figures


def measure(row: str, seed: int, small: bool) -> Figures:
    """Returns test accuracy on each table, the spread of predictions by draws, and federated figures; percent."""
    own = ROWS[row]
    figures = on_tables(own, seed, small)
    for anchors in (5, 0) if own.gate else ():
        arguments = {f"gate.{own.gate}.{key}": value for key, value in (own.arguments or {}).items()}
        given = {"seed": seed, "gate.name": own.gate, "clients.anchors-per-round": anchors, **arguments}
        with federated_run(given, 4 if small else ROUNDS) as run:
            told = summary_of(run)
        figures[f"unseen/{anchors}"] = 100 * told["unseen"]["accuracy_mean"]
        figures[f"dead/{anchors}"] = len(told["routing"]["fedjets"]["dead_experts"])
    return figures


def draw(results: Results, figure: Figure) -> None:
    """Draws accuracy on the tables, the variance over draws, and the federated runs."""
    left, middle, right = figure.subplots(1, 3, width_ratios=(3, 2, 2))
    names = [name for name in TABLES if name in next(iter(results.values()))[0]]
    for n, (row, runs) in enumerate(results.items()):
        means, spreads = zip(*(mean_and_spread([run[name] for run in runs]) for name in names), strict=True)
        places = np.arange(len(names)) + 0.15 * (n - 1.5)
        left.errorbar(places, means, yerr=spreads, fmt="o", color=f"C{n}", label=row.replace("`", ""), markersize=4)
        if "variance/1" in runs[0]:
            middle.loglog(
                DRAWS, [np.mean([run[f"variance/{draws}"] for run in runs]) for draws in DRAWS], "o-", color=f"C{n}"
            )
        if "unseen/0" in runs[0]:
            means, spreads = zip(*(mean_and_spread([run[f"unseen/{a}"] for run in runs]) for a in (5, 0)), strict=True)
            right.errorbar(np.arange(2) + 0.1 * (n - 2), means, yerr=spreads, fmt="o", color=f"C{n}", markersize=4)
    left.set_xticks(range(len(names)), [name.replace(" ", "\n") for name in names])
    left.set_ylabel("accuracy on test samples, %")
    middle.set_xlabel("draws in serving")
    middle.set_ylabel("variance of predicted probabilities")
    right.set_xticks(range(2), ["5 anchors\na round", "no anchors"])
    right.set_ylabel("accuracy on unseen clients, %")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False, fontsize=8)


def mean_and_spread(values: list[float]) -> tuple[float, float]:
    """Returns mean and standard deviation of the sample (0 of one value)."""
    return float(np.mean(values)), float(np.std(values, ddof=min(1, len(values) - 1)))


EXPERIMENT = Experiment(
    name="gumbel",
    title="Gate",
    rows=tuple(ROWS),
    measure=measure,
    draw=draw,
    columns={
        **{name: f"{name}, %" for name in TABLES},
        "unseen/5": "digits federated, 5 anchors, %",
        "unseen/0": "no anchors, %",
        "dead/0": "dead experts, no anchors",
        "routing/clusters": "errors told by routing, clusters",
        "answer/clusters": "by the answer",
    },
    digits={**dict.fromkeys((*TABLES, "unseen/5", "unseen/0", "dead/0"), 1)},
)

if __name__ == "__main__":
    main(EXPERIMENT)
