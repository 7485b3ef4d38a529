"""Accuracy over bytes sent, of several runs: a line a method, the mean over its seeds."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from fedmoe.recording.comparison import groups_of, joined
from fedmoe.recording.plots import METHODS, blank, styled
from fedmoe.recording.run_record import RunRecord, read_run

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
DASHES = ("-", "--", ":", "-.")  # once all colours are there, they come again in other dashes


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
            for number, (name, by_variant) in enumerate(lines.items()):
                curves = by_variant.get(variant, [])
                length = min((len(curve) for curve in curves), default=0)
                if not length:
                    continue
                values = np.array([curve[:length] for curve in curves])
                x, y = values[:, :, 0].mean(axis=0) / scale, 100 * values[:, :, 1]
                colour = METHODS[number % len(METHODS)]
                dashes = DASHES[number // len(METHODS) % len(DASHES)]
                axes.plot(x, y.mean(axis=0), dashes, color=colour, marker="o", markersize=3, label=name)
                axes.fill_between(x, y.min(axis=0), y.max(axis=0), color=colour, alpha=0.15, linewidth=0)
                if length == 1:  # a band has no width there
                    axes.vlines(x, y.min(axis=0), y.max(axis=0), color=colour, alpha=0.3)
            axes.set_title(VARIANTS[variant])
            axes.set_xlabel(f"sent so far, both ways ({unit})")
            axes.grid(axis="y")
        panels[0].set_ylabel("accuracy on unseen clients (%)")
        bounds = [axes.get_ylim() for axes in panels]
        for axes in panels:
            axes.set_ylim(min(low for low, _ in bounds), max(high for _, high in bounds))
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower left")
    return figure


def curves_of(paths: Sequence[Path]) -> dict[str, dict[str, list[Curve]]]:
    """Returns, by method (with the settings in which its runs differ), the curves of its seeds for each prediction."""
    drawn: list[tuple[str, str, bool, BySeed]] = []
    for tag, members in groups_of(paths):
        own: dict[tuple[str, bool], BySeed] = {}
        for path in members:
            record = read_run(path)
            for method in record.rounds:
                curves = {variant: curve_of(record, method, variant) for variant in VARIANTS}
                own.setdefault((record.title(method), method == record.main), {})[record.summary["seed"]] = curves
        drawn += [(tag, title, is_main, by_seed) for (title, is_main), by_seed in own.items()]
    titles = dict.fromkeys(title for _, title, _, _ in drawn)
    shared = {title: joined([by_seed for _, own, _, by_seed in drawn if own == title]) for title in titles}
    found: dict[str, BySeed] = {}
    for tag, title, is_main, by_seed in drawn:
        whole = None if tag and is_main else shared[title]
        found.setdefault(f"{title} [{tag}]" if tag and whole is None else title, whole or by_seed)
    return {title: {v: [own[v] for own in by_seed.values()] for v in VARIANTS} for title, by_seed in found.items()}


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
