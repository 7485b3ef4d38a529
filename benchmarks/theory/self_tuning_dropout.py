"""Self-Tuning Networks (arXiv 1903.03088): a rate of dropout that is tuned while the network learns.

Digits, few to train on and a quarter of their labels drawn anew. Every start should come to rates of one band; networks
of the same kind whose rate is left at the start are what it is held against.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.theory.experiment import Experiment, Figures, Results, main
from benchmarks.theory.tables import labelled_table
from fedmoe.moe.expert import ExpertSpec
from fedmoe.moe.experts.best_response import BestResponseExpert
from fedmoe.seeding import derive_seed, torch_stream

__all__ = ["EXPERIMENT", "ROWS", "fitted", "noisy_digits"]

TRAIN, REDRAWN, WIDTH = 300, 0.25, 64  # samples, share of labels that are drawn anew, hidden units
STEPS, WARM, TRAIN_STEPS, BATCH = 2400, 400, 2, 64  # all outer steps; the first of them, which leave h; `self_tuning`
RATE, MOMENTUM, CLIP, HYPER_RATE = 0.01, 0.9, 1.0, 5e-3  # of the weights' SGD, and of Adam for h
STARTS = (0.05, 0.3, 0.6, 0.8)
MARKS = 40  # of the curves


@dataclass(frozen=True)
class Row:
    """Where the rate starts, and whether it is tuned."""

    start: float
    tuned: bool = True


ROWS: Mapping[str, Row] = {
    **{f"tuned from {start:g}": Row(start) for start in STARTS},
    **{f"left at {start:g}": Row(start, tuned=False) for start in STARTS},
}
Part = tuple[Tensor, Tensor]


def noisy_digits(seed: int) -> tuple[Part, Part, Part]:
    """Returns samples to train on, to tune on and to test on; labels of the first two are drawn anew by lot."""
    table, stream = labelled_table("digits", seed), torch_stream(seed, "self_tuning", "labels")

    def spoilt(part: Part) -> Part:
        x_ND, y_N = part
        redrawn_N = torch.rand(len(y_N), generator=stream) < REDRAWN
        return x_ND, torch.where(redrawn_N, torch.randint(table.classes, y_N.shape, generator=stream), y_N)

    x_ND, y_N = table.train
    rest = (torch.cat([x_ND[TRAIN:], table.valid[0]]), torch.cat([y_N[TRAIN:], table.valid[1]]))
    return spoilt((x_ND[:TRAIN], y_N[:TRAIN])), spoilt((rest[0][:TRAIN], rest[1][:TRAIN])), table.test


def fitted(row: Row, seed: int, steps: int) -> tuple[BestResponseExpert, list[float]]:
    """Returns the trained expert, and the rate before each outer step and at the end."""
    train, valid, _ = noisy_digits(seed)
    torch.manual_seed(derive_seed(seed, "self_tuning", "weights"))
    spec = ExpertSpec(in_shape=(64, 1, 1), num_classes=10, width=WIDTH)
    expert, stream = BestResponseExpert(spec, rate=row.start, pace=1.0), torch_stream(seed, "self_tuning", "batches")
    weights = [value for name, value in expert.named_parameters() if name != "hyper"]
    inner = torch.optim.SGD(weights, RATE, momentum=MOMENTUM, fused=True)
    outer = torch.optim.Adam([expert.hyper], HYPER_RATE)

    def loss(part: Part, drawn: bool) -> Tensor:
        rows = torch.randint(len(part[1]), (BATCH,), generator=stream)
        lots_BL = torch.rand(BATCH, expert.draws, generator=stream) if drawn else None
        return cross_entropy(expert(part[0][rows][:, :, None, None], lots_BL), part[1][rows])

    rates = [float(expert.rate_of(expert.hyper.detach()))]
    for step in range(steps):
        for _ in range(TRAIN_STEPS):
            expert.zero_grad()
            loss(train, True).backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(weights, CLIP)
            inner.step()
        if row.tuned and step >= WARM:
            expert.zero_grad()
            loss(valid, False).backward()  # type: ignore[no-untyped-call]
            outer.step()
        rates.append(float(expert.rate_of(expert.hyper.detach())))
    return expert.eval(), rates


def measure(row: str, seed: int, small: bool) -> Figures:
    """Returns the rate at the end, accuracy on test samples (percent), and the loss on those that are tuned on."""
    expert, rates = fitted(ROWS[row], seed, 1000 if small else STEPS)
    _, valid, test = noisy_digits(seed)
    with torch.no_grad():
        right = (expert(test[0][:, :, None, None]).argmax(dim=1) == test[1]).double().mean()
        loss = cross_entropy(expert(valid[0][:, :, None, None]), valid[1])
    curve = {f"path/{mark}": rates[mark * (len(rates) - 1) // MARKS] for mark in range(MARKS + 1)}
    return {"rate": rates[-1], "accuracy": 100 * float(right), "loss": float(loss), **curve}


def draw(results: Results, figure: Figure) -> None:
    """Draws the rate over the steps, a line a start, a shade over seeds, and accuracy against that of fixed rates."""
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    for number, (row, runs) in enumerate(results.items()):
        if ROWS[row].tuned:
            found = np.array([[run[f"path/{mark}"] for mark in range(MARKS + 1)] for run in runs])
            share = np.linspace(0, 1, MARKS + 1)
            left.plot(share, found.mean(axis=0), color=f"C{number}", label=row)
            left.fill_between(share, found.min(axis=0), found.max(axis=0), color=f"C{number}", alpha=0.15)
    left.set_xlabel("share of the steps")
    left.set_ylabel("rate of dropout (mean and range over seeds)")
    left.set_ylim(0, 0.9)
    left.legend(frameon=False, fontsize=8)
    for number, tuned in enumerate((True, False)):
        chosen = [runs for row, runs in results.items() if ROWS[row].tuned == tuned]
        found = np.array([[run["accuracy"] for run in runs] for runs in chosen])
        spread = found.std(axis=1, ddof=min(1, found.shape[1] - 1))
        label = "tuned" if tuned else "left at the start"
        marks = {"fmt": "oD"[number], "color": f"C{7 * number}", "markersize": 4, "label": label}
        right.errorbar(np.array(STARTS) + 0.02 * number, found.mean(axis=1), yerr=spread, **marks)
    right.set_xlabel("rate at the start")
    right.set_ylabel("accuracy on test samples, %")
    right.legend(frameon=False, fontsize=8)


EXPERIMENT = Experiment(
    name="self_tuning_dropout",
    title="Rate of dropout",
    rows=tuple(ROWS),
    measure=measure,
    draw=draw,
    columns={"rate": "rate at the end", "accuracy": "test accuracy, %", "loss": "loss on those tuned on"},
    digits={"accuracy": 1},
)

if __name__ == "__main__":
    main(EXPERIMENT)
