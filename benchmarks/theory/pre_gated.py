"""Pre-gated MoE (arXiv 2308.12066): experts on disk, fetched while the block before them computes; what it costs.

Latency: a stack of blocks serves one sample after another, its experts in files; a transfer and a block's computation
each take a set time at least (the rest of it is slept), so that rows differ by their schedule alone. Accuracy: two
blocks on the digits, trained with gates that read their own block's input, then with gates that read the one before.
"""

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn.functional import cross_entropy

from benchmarks.theory.experiment import Experiment, Figures, Results, main
from benchmarks.theory.tables import LabelledTable, labelled_table
from fedmoe.moe.pre_gated import PreGatedStack
from fedmoe.personal.block_serving import WAYS, seconds_of, serve_blocks
from fedmoe.personal.shelf import DiskShelf, Prefetcher, SlowShelf

__all__ = ["EXPERIMENT", "ROWS", "trained"]

BLOCKS, POOL, FEATURES, HIDDEN = 6, 8, 128, 512
SAMPLES = 4
COMPUTE = 0.04  # seconds of a block
TRANSFERS: Mapping[str, float] = {"1/4": 0.01, "1": 0.04, "2": 0.08}  # of an expert, by t/c
NAMES = {"on_demand": "on demand", "all_ahead": "all of the next block ahead", "pre_gated": "pre-gated"}
ACCURACY: Mapping[str, tuple[bool, bool]] = {  # whether the gates choose ahead; whether training goes on
    "accuracy: own gates": (False, False),
    "accuracy: own gates, trained on": (False, True),
    "accuracy: pre-gates, no fine-tuning": (True, False),
    "accuracy: pre-gates, fine-tuned": (True, True),
}
ROWS = (*(f"latency: {NAMES[way]}" for way in WAYS), *ACCURACY)
EPOCHS, FINE_TUNING, BATCH, LEARNING_RATE, BALANCE = 40, 15, 64, 3e-3, 0.01


def latency(way: str, seed: int, small: bool) -> Figures:
    """Returns seconds a sample, measured, over those of the formula; and of on-demand fetching over them."""
    stack = PreGatedStack(
        16, 10, blocks=BLOCKS, experts=POOL, features=FEATURES, hidden=HIDDEN, seed=seed, ahead=way == "pre_gated"
    )
    figures: dict[str, float] = {}
    with TemporaryDirectory() as folder:
        shelf = DiskShelf(Path(folder))
        for block in range(BLOCKS):
            for expert in range(POOL):
                shelf.put((block, expert), stack.experts[block][expert])  # type: ignore[index]
        for name in ["1"] if small else TRANSFERS:
            taken, peak = timed(stack, SlowShelf(shelf, TRANSFERS[name]), way, seed, 2 if small else SAMPLES)
            wanted = seconds_of(way, BLOCKS, POOL, COMPUTE, TRANSFERS[name])
            figures |= {f"ms {name}": 1000 * taken, f"formula {name}": 1000 * wanted, f"ratio {name}": taken / wanted}
            figures["peak"] = float(peak)
    return figures


def timed(stack: PreGatedStack, shelf: SlowShelf, way: str, seed: int, samples: int) -> tuple[float, int]:
    """Returns the seconds of the fastest sample but the first, which fills the pipeline, and the most experts at once.

    Whatever else the machine does adds to a sample's time, and never takes from it.
    """

    def compute(block: int, h_BD: Tensor, expert: Mapping[str, Tensor], p_B: Tensor) -> Tensor:
        until = time.perf_counter() + COMPUTE
        out_BD = stack.add(block, h_BD, expert, p_B)
        time.sleep(max(0.0, until - time.perf_counter()))
        return out_BD

    x_N1F = torch.randn(samples + 1, 1, 16, generator=torch.Generator().manual_seed(seed))
    ends = [time.perf_counter()]
    with Prefetcher(shelf) as courier:
        ends += [time.perf_counter() for _ in serve_blocks(stack, courier, iter(x_N1F), way, compute)]
        return float(np.diff(ends)[1:].min()), courier.peak


def accuracy(row: str, seed: int, small: bool) -> Figures:
    """Returns the share of test digits that a stack of two blocks has right, percent."""
    ahead, goes_on = ACCURACY[row]
    table = labelled_table("digits", seed)
    stack = PreGatedStack(table.train[0].shape[1], table.classes, blocks=2, experts=4, seed=seed)
    trained(stack, table, seed, 12 if small else EPOCHS)
    stack.ahead = ahead
    if goes_on:
        trained(stack, table, seed + 1000, 5 if small else FINE_TUNING)
    with torch.no_grad():
        logits_BC, scores = stack.eval()(table.test[0])
    used = [len(torch.unique(own.argmax(dim=1))) for own in scores]
    right = (logits_BC.argmax(dim=1) == table.test[1]).double().mean()
    return {"accuracy": 100 * float(right), "used": float(np.mean(used))}


def trained(stack: PreGatedStack, table: LabelledTable, seed: int, epochs: int) -> None:
    """Trains the stack by Adam, with a term that spreads samples over experts (Switch, arXiv 2101.03961, eq. 4)."""
    (x_ND, y_N), stream = table.train, torch.Generator().manual_seed(seed)
    adam = torch.optim.Adam(stack.train().parameters(), LEARNING_RATE, fused=True)
    for _ in range(epochs):
        for rows in batches(len(y_N), stream):
            logits_BC, scores = stack(x_ND[rows])
            loss = cross_entropy(logits_BC, y_N[rows]) + BALANCE * torch.stack([spread(own) for own in scores]).sum()
            adam.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            adam.step()


def batches(count: int, stream: torch.Generator) -> Iterator[Tensor]:
    """Yields the rows of each batch of an epoch."""
    yield from torch.split(torch.randperm(count, generator=stream), BATCH)


def spread(logits_BM: Tensor) -> Tensor:
    """Returns M times the sum over experts of their share of samples times their mean probability; 1 where equal."""
    share_M = torch.bincount(logits_BM.argmax(dim=1), minlength=logits_BM.shape[1]) / len(logits_BM)
    total: Tensor = logits_BM.shape[1] * (share_M * torch.softmax(logits_BM, dim=1).mean(dim=0)).sum()
    return total


def measure(row: str, seed: int, small: bool) -> Figures:
    """Returns a row's latency or accuracy."""
    ways = {f"latency: {NAMES[way]}": way for way in WAYS}
    return latency(ways[row], seed, small) if row in ways else accuracy(row, seed, small)


def draw(results: Results, figure: Figure) -> None:
    """Draws measured times beside the formulas', and the accuracies."""
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    for n, way in enumerate(WAYS):
        runs = results[f"latency: {NAMES[way]}"]
        shown = [name for name in TRANSFERS if f"ms {name}" in runs[0]]
        transfers = np.array([1000 * TRANSFERS[name] for name in shown])
        left.plot(
            transfers, [np.mean([r[f"ms {t}"] for r in runs]) for t in shown], "o", color=f"C{n}", label=NAMES[way]
        )
        fine = np.geomspace(7, 100, 200)
        left.plot(fine, [1000 * seconds_of(way, BLOCKS, POOL, COMPUTE, t / 1000) for t in fine], color=f"C{n}")
    left.plot([], [], color="0.5", label="formula")
    left.set_xscale("log")
    left.set_yscale("log")
    left.set_xticks(transfers, [f"{t:.0f}" for t in transfers])
    left.minorticks_off()
    left.set_yticks([250, 500, 1000, 2000, 4000], ["250", "500", "1000", "2000", "4000"])
    left.set_xlabel(f"ms to fetch an expert (a block computes for {1000 * COMPUTE:.0f} ms)")
    left.set_ylabel(f"ms a sample, {BLOCKS} blocks of {POOL} experts")
    left.legend(frameon=False)
    for n, row in enumerate(ACCURACY):
        values = [run["accuracy"] for run in results[row]]
        right.plot(values, [n] * len(values), "o", color="C0", alpha=0.4)
        right.plot([np.mean(values)], [n], "|", color="k", markersize=18)
    right.set_yticks(range(len(ACCURACY)), [row.removeprefix("accuracy: ").replace(", ", ",\n") for row in ACCURACY])
    right.invert_yaxis()
    right.set_xlabel("accuracy on test digits, %")


EXPERIMENT = Experiment(
    name="pre_gated",
    title="Row",
    rows=ROWS,
    measure=measure,
    draw=draw,
    columns={
        **{f"ms {name}": f"t = {name} c: ms" for name in TRANSFERS},
        **{f"ratio {name}": f"over formula, {name}" for name in TRANSFERS},
        "peak": "experts in memory",
        "accuracy": "accuracy, %",
        "used": "experts in use, of 4",
    },
    digits={
        **{f"ms {name}": 1 for name in TRANSFERS},
        **{f"ratio {name}": 3 for name in TRANSFERS},
        **dict.fromkeys(("peak", "accuracy", "used"), 1),
    },
)

if __name__ == "__main__":
    main(EXPERIMENT)
