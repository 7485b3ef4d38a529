"""Chen et al.'s synthetic experiment: one expert or a mixture, linear or cubic, and whether clusters get experts.

arXiv 2208.02813, section 6: settings 1 to 4, 16,000 training and as many test samples, 8 experts of 16 filters, top-1.
"""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from benchmarks.theory.experiment import Experiment, Figures, Results, main
from benchmarks.theory.patch_pool import PAPER, RELEASED, samples, train_alone, train_pool
from fedmoe.data.patch_law import LAWS
from fedmoe.seeding import torch_stream

__all__ = ["EXPERIMENT"]

MODELS = {"linear": "patch_linear", "cubic": "patch_cubic"}
GATED = ", gate `noisy_top1`"
FORMS = {"": RELEASED, ", paper's form": PAPER, GATED: PAPER}
PUBLISHED: Mapping[str, tuple[float | tuple[float, float], ...]] = {
    "1: one linear": (68.71,),
    "1: one cubic": (79.48,),
    "1: pool of linear": (92.99, 1.300),
    "1: pool of cubic": (99.46, 0.098),
    "2: one linear": (68.2,),
    "2: one cubic": (72.29,),
    "2: pool of linear": (88.48, 1.294),
    "2: pool of cubic": (98.09, 0.171),
    "3: one linear": ((74.3, 74.8),),
    "3: one cubic": ((67.8, 73.7),),
    "3: pool of linear": (95.93, 1.160),
    "3: pool of cubic": (99.99, 0.008),
    "4: one linear": ((73.0, 74.6),),
    "4: one cubic": ((61.7, 70.3),),
    "4: pool of linear": (93.30, 1.160),
    "4: pool of cubic": (98.92, 0.089),
}
"""Accuracy in percent and dispatch entropy in nats: the paper's tables, and its notebooks for settings 3 and 4.

One expert of settings 2 (linear), 3 and 4 is the notebooks' too; where they have several widths, the least and the
greatest of their accuracies.
"""
ROWS = (
    *(f"{setting}: {kind} {model}" for setting in LAWS for kind in ("one", "pool of") for model in MODELS),
    "1: pool of linear, paper's form",
    "1: pool of cubic, paper's form",
    f"1: pool of cubic{GATED}",
)
CEILING = 87.5  # theorem 4.1: no expert alone gets further where alpha and gamma have one law


def measure(row: str, seed: int, small: bool) -> Figures:
    """Returns the test accuracy in percent and, of a pool, the dispatch entropy in nats."""
    setting, _, what = row.partition(": ")
    words, num = what.split(",")[0].split(), 2000 if small else 16_000
    model, law = MODELS[words[-1]], LAWS[int(setting)]
    train, test = samples(law, num, seed, "train"), samples(law, num, seed, "test")
    if words[0] == "one":
        return {"accuracy": train_alone(model, train, test, seed, 60 if small else 200)}
    manner = what[what.index(",") :] if "," in what else ""
    pool = train_pool(model, FORMS[manner], train, seed, 200 if small else 300, manner == GATED)
    accuracy, entropy = pool.test(test, torch_stream(seed, "noise", "test"))
    return {"accuracy": accuracy, "entropy": entropy}


def draw(results: Results, figure: Figure) -> None:
    """Draws accuracies on the left and the pools' entropies on the right: dots are seeds, bars were published."""
    left, right = figure.subplots(1, 2, width_ratios=(3, 2), sharey=False)
    shown = {row: runs for row, runs in results.items() if runs}
    for axes, name, place in ((left, "accuracy", 0), (right, "entropy", 1)):
        rows = [row for row, runs in shown.items() if name in runs[0]][::-1]
        for height, row in enumerate(rows):
            colour = "tab:blue" if "linear" in row else "tab:orange"
            values = [run[name] for run in shown[row]]
            axes.plot(values, [height] * len(values), "o", color=colour, alpha=0.5, markersize=5, markeredgewidth=0)
            if len(PUBLISHED.get(row, ())) > place:
                ends = np.atleast_1d(PUBLISHED[row][place])
                axes.plot(ends, [height] * len(ends), "|-", color="black", markersize=11, markeredgewidth=1.5)
        axes.set_yticks(range(len(rows)), [row.replace("`", "") for row in rows])
        axes.grid(axis="x", alpha=0.3)
    left.axvline(CEILING, color="grey", linestyle="--", linewidth=1)
    left.text(CEILING, len(ROWS) - 0.3, "theorem 4.1", color="grey", ha="center", va="bottom", fontsize=8)
    left.set_xlabel("test accuracy, %   (dot: a seed; bars: published)")
    right.set_xlabel("dispatch entropy, nats")
    right.axvline(1.386, color="grey", linestyle="--", linewidth=1)
    right.text(1.386, len(right.get_yticks()) - 0.6, "no routing", color="grey", ha="center", va="bottom", fontsize=8)


EXPERIMENT = Experiment(
    name="chen",
    title="Chen et al., setting",
    rows=ROWS,
    measure=measure,
    draw=draw,
    columns={"accuracy": "accuracy, %", "entropy": "dispatch entropy, nats"},
    digits={"accuracy": 2, "entropy": 3},
)

if __name__ == "__main__":
    main(EXPERIMENT)
