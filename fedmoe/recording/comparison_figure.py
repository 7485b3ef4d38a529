"""Accuracy over bytes sent, of several runs: a line a method, the mean over its seeds."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from fedmoe.recording.entries import Entry, put_together
from fedmoe.recording.plots import METHODS, blank, styled
from fedmoe.recording.run_groups import bracketed, groups_of
from fedmoe.recording.run_record import RunRecord, read_run
from fedmoe.recording.wording import method_title

__all__ = ["Curve", "draw_comparison"]

VARIANTS = {
    "zero_shot": "as it is",
    "zero_shot_em": "with prior correction",
    "zero_shot_guarded": "with guarded correction",
}
Curve = list[tuple[float, float]]
"""Bytes sent so far, and mean accuracy on unseen clients, at each evaluation."""
BySeed = dict[int, dict[str, Curve]]
"""A method's curve of each prediction, by seed."""
WIDER = 3.0  # points by which a line stands out on each side together, under one that lies right on it
DASHES, DOTS = ("-", "--", ":", "-."), "os^D"  # once all colours are there, they come again in other dashes and dots


def draw_comparison(paths: Sequence[Path]) -> Figure:
    """Returns a panel for each way to predict that is told: as it is, with prior correction, with guarded correction.

    A line is the mean over seeds; bands are the seeds' least and most.

    Args:
        paths: run folders, as `compare_runs` takes them.
    """
    with styled():
        lines = curves_of(paths)
        told = {variant for own in lines.values() for variant, curves in own.items() if any(curves)}
        most = max((x for own in lines.values() for curves in own.values() for c in curves for x, _ in c), default=0.0)
        unit, scale = ("GB", 1e9) if most >= 1e9 else ("MB", 1e6)
        shown = [variant for variant in VARIANTS if variant in told] or [next(iter(VARIANTS))]
        figure, panels = blank(4.2 + 0.2 * len(lines), columns=len(shown))
        for axes, variant in zip(panels, shown, strict=True):
            drawn = {name: own for name, by in lines.items() if (own := _equally_long(by.get(variant, []))).size}
            for number, name in enumerate(lines):
                if name in drawn:
                    below = _hidden_by_later(name, drawn)
                    _draw_line(axes, drawn[name], name, number, below, scale)
            once = all(values.shape[1] == 1 for values in drawn.values())
            axes.set_title(VARIANTS[variant] + (", tested at the end only" if drawn and once else ""))
            axes.set_xlabel(f"sent so far, both ways ({unit})")
            axes.grid(axis="y")
        panels[0].set_ylabel("accuracy on unseen clients (%)")
        bounds = [axes.get_ylim() for axes in panels]
        for axes in panels:
            axes.set_ylim(min(low for low, _ in bounds), max(high for _, high in bounds))
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower left")
    return figure


def _equally_long(curves: Sequence[Curve]) -> NDArray[np.float64]:
    """Returns the curves of a method's seeds as one array, seeds x evaluations x (bytes, accuracy)."""
    length = min((len(curve) for curve in curves), default=0)
    return np.array([curve[:length] for curve in curves])


def _hidden_by_later(name: str, drawn: Mapping[str, NDArray[np.float64]]) -> int:
    """Returns how many lines that are drawn after this one lie right on it."""
    later = list(drawn)[list(drawn).index(name) + 1 :]
    own = drawn[name].mean(axis=0)
    others = (drawn[other].mean(axis=0) for other in later)
    return sum(other.shape == own.shape and np.allclose(other, own, rtol=0.01) for other in others)


def _draw_line(axes: Axes, values: NDArray[np.float64], name: str, number: int, below: int, scale: float) -> None:
    """Draws the mean over seeds and the band of them; wider by as many lines as would hide it."""
    x, y = values[:, :, 0].mean(axis=0) / scale, 100 * values[:, :, 1]
    colour, again = METHODS[number % len(METHODS)], number // len(METHODS)
    dashes, dot, size = DASHES[again % len(DASHES)], DOTS[again % len(DOTS)], 3 + WIDER * below
    (line,) = axes.plot(x, y.mean(axis=0), dashes, color=colour, marker=dot, markersize=size, label=name)
    line.set_linewidth(line.get_linewidth() + WIDER * below)
    axes.fill_between(x, y.min(axis=0), y.max(axis=0), color=colour, alpha=0.15, linewidth=0)
    if values.shape[1] == 1:  # a band has no width there
        axes.vlines(x, y.min(axis=0), y.max(axis=0), color=colour, alpha=0.3)


def curves_of(paths: Sequence[Path]) -> dict[str, dict[str, list[Curve]]]:
    """Returns, by method (with the settings in which its runs differ), the curves of its seeds for each prediction."""
    entries: list[Entry[dict[str, Curve]]] = []
    for group in groups_of(paths):
        told: dict[str, BySeed] = {}
        for path in group.paths:
            record = read_run(path)
            for method in record.rounds:
                curves = {variant: curve_of(record, method, variant) for variant in VARIANTS}
                told.setdefault(method, {})[record.summary["seed"]] = curves
        entries += [
            Entry(method_title(name), "", group.tag(name), group.whole_tag(), name == group.main, by_seed)
            for name, by_seed in told.items()
        ]
    return {
        entry.method + bracketed(entry.tag): {v: [own[v] for own in entry.by_seed.values()] for v in VARIANTS}
        for entry in put_together(entries)
    }


def curve_of(record: RunRecord, method: str, variant: str) -> Curve:
    """Returns a method's accuracies over the bytes that it has sent."""
    once = record.summary.get("bytes", {}).get("by_method", {}).get(method, {}).get("once", 0)
    sent, curve = float(once), Curve()
    for line in record.rounds[method]:
        sent += line["bytes"]["down"] + line["bytes"]["up"]
        told = (line["evaluate"] or {}).get("methods", {}).get(variant)
        if told is not None:
            curve.append((sent, told["mean"]))
    return curve
