"""Self-Tuning Networks (arXiv 1903.03088): rates of dropout that are tuned while the network learns.

Digits, few to train on and a quarter of their labels wrong. Every start should come to rates of one band; networks of
the same kind with their rates left at the start are what it is held against.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn.functional import cross_entropy

from benchmarks.theory.experiment import Experiment, Figures, Results, main
from benchmarks.theory.tables import labelled_table
from fedmoe.moe.expert import ExpertSpec
from fedmoe.moe.experts.best_response import BestResponseExpert
from fedmoe.seeding import derive_seed, torch_stream

__all__ = ["EXPERIMENT", "ROWS", "fitted", "noisy_digits"]

TRAIN, WRONG, WIDTH = 300, 0.25, 64
STEPS, TRAIN_STEPS, BATCH = 4000, 2, 64  # outer steps; steps on the training part before each on the validation part
RATE, HYPER_RATE = 1e-3, 1e-2  # of Adam; of Adam for h
STARTS = (0.05, 0.3, 0.6, 0.85)
MARKS = 40  # of the curves
KINDS = ("inputs", "units")


@dataclass(frozen=True)
class Row:
    """Where both rates start, and whether they are tuned."""

    start: float
    tuned: bool = True


ROWS: Mapping[str, Row] = {
    **{f"tuned from {start:g}": Row(start) for start in STARTS},
    **{f"left at {start:g}": Row(start, tuned=False) for start in STARTS},
}
Part = tuple[Tensor, Tensor]


def noisy_digits(seed: int) -> tuple[Part, Part, Part]:
    """Returns samples to train on, to tune on and to test on; labels of the first two are wrong by lot."""
    table, stream = labelled_table("digits", seed), torch_stream(seed, "self_tuning", "labels")

    def spoilt(part: Part) -> Part:
        x_ND, y_N = part
        wrong_N = torch.rand(len(y_N), generator=stream) < WRONG
        return x_ND, torch.where(wrong_N, torch.randint(table.classes, y_N.shape, generator=stream), y_N)

    x_ND, y_N = table.train
    rest = (torch.cat([x_ND[TRAIN:], table.valid[0]]), torch.cat([y_N[TRAIN:], table.valid[1]]))
    return spoilt((x_ND[:TRAIN], y_N[:TRAIN])), spoilt((rest[0][:TRAIN], rest[1][:TRAIN])), table.test


def fitted(row: Row, seed: int, steps: int) -> tuple[BestResponseExpert, list[list[float]]]:
    """Returns the trained expert, and both rates before each outer step and at the end."""
    train, valid, _ = noisy_digits(seed)
    torch.manual_seed(derive_seed(seed, "self_tuning", "weights"))
    spec = ExpertSpec(in_shape=(64, 1, 1), num_classes=10, width=WIDTH)
    expert, stream = BestResponseExpert(spec, rate=row.start, pace=1.0), torch_stream(seed, "self_tuning", "batches")
    weights = [value for name, value in expert.named_parameters() if name != "hyper"]
    inner, outer = torch.optim.Adam(weights, RATE, fused=True), torch.optim.Adam([expert.hyper], HYPER_RATE)

    def loss(part: Part, drawn: bool) -> Tensor:
        rows = torch.randint(len(part[1]), (BATCH,), generator=stream)
        lots_BL = torch.rand(BATCH, expert.draws, generator=stream) if drawn else None
        return cross_entropy(expert(part[0][rows][:, :, None, None], lots_BL), part[1][rows])

    rates = [expert.rates(expert.hyper).tolist()]
    for _ in range(steps):
        for _ in range(TRAIN_STEPS):
            expert.zero_grad()
            loss(train, True).backward()  # type: ignore[no-untyped-call]
            inner.step()
        if row.tuned:
            expert.zero_grad()
            loss(valid, False).backward()  # type: ignore[no-untyped-call]
            outer.step()
        rates.append(expert.rates(expert.hyper).tolist())
    return expert.eval(), rates


def measure(row: str, seed: int, small: bool) -> Figures:
    """Returns the rates at the end, accuracy on test samples (percent), and the loss on those that are tuned on."""
    expert, rates = fitted(ROWS[row], seed, 1000 if small else STEPS)
    _, valid, test = noisy_digits(seed)
    with torch.no_grad():
        right = (expert(test[0][:, :, None, None]).argmax(dim=1) == test[1]).double().mean()
        loss = cross_entropy(expert(valid[0][:, :, None, None]), valid[1])
    curves = {
        f"{kind}/{mark}": rates[mark * (len(rates) - 1) // MARKS][n]
        for mark in range(MARKS + 1)
        for n, kind in enumerate(KINDS)
    }
    return {
        "inputs": rates[-1][0],
        "units": rates[-1][1],
        "accuracy": 100 * float(right),
        "loss": float(loss),
        **curves,
    }


def draw(results: Results, figure: Figure) -> None:
    """Draws both rates over the steps, a line a start (the mean over seeds), and accuracy against the fixed rates."""
    panels = figure.subplots(1, 3, width_ratios=(3, 3, 2))
    for kind, panel in zip(KINDS, panels, strict=False):
        for number, (row, runs) in enumerate(results.items()):
            if ROWS[row].tuned:
                found = np.array([[run[f"{kind}/{mark}"] for mark in range(MARKS + 1)] for run in runs])
                share = np.linspace(0, 1, MARKS + 1)
                panel.plot(share, found.mean(axis=0), color=f"C{number}", label=row)
                panel.fill_between(share, found.min(axis=0), found.max(axis=0), color=f"C{number}", alpha=0.15)
        panel.set_xlabel("share of the steps")
        panel.set_ylabel(f"dropout of the {kind}")
        panel.set_ylim(0, 0.9)
    for number, tuned in enumerate((True, False)):
        runs = [[run["accuracy"] for run in runs] for row, runs in results.items() if ROWS[row].tuned == tuned]
        found, label = np.array(runs), "tuned" if tuned else "left at the start"
        spread = found.std(axis=1, ddof=min(1, found.shape[1] - 1))
        places = np.array(STARTS) + 0.02 * number
        panels[2].errorbar(
            places, found.mean(axis=1), yerr=spread, fmt="oD"[number], color=f"C{7 * number}", label=label, markersize=4
        )
    panels[2].set_xlabel("rates at the start")
    panels[2].set_ylabel("accuracy on test samples, %")
    panels[2].legend(frameon=False, fontsize=8)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)


EXPERIMENT = Experiment(
    name="self_tuning_dropout",
    title="Rates of dropout",
    rows=tuple(ROWS),
    measure=measure,
    draw=draw,
    columns={
        "inputs": "of the inputs, at the end",
        "units": "of the hidden units, at the end",
        "accuracy": "test accuracy, %",
        "loss": "loss on those tuned on",
    },
    digits={"accuracy": 1},
)

if __name__ == "__main__":
    main(EXPERIMENT)
