"""Accuracy over bytes sent, of several runs: a line a method, the mean over its seeds."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from fedmoe.recording.comparison import groups_of
from fedmoe.recording.plots import METHODS, blank, styled
from fedmoe.recording.run_record import RunRecord, read_run

__all__ = ["Curve", "draw_comparison"]

Curve = list[tuple[float, float]]
"""Bytes sent so far, and mean accuracy on unseen clients, at each evaluation."""


def draw_comparison(paths: Sequence[Path]) -> Figure:
    """Returns a panel for predictions as they are, and one with prior correction; bands are the seeds' least and most.

    Args:
        paths: run folders, as `compare_runs` takes them.
    """
    with styled():
        figure, panels = blank(4.2, columns=2)
        lines = curves_of(paths)
        for axes, variant, title in zip(
            panels, ("zero_shot", "zero_shot_em"), ("as it is", "with prior correction"), strict=True
        ):
            for number, (name, by_variant) in enumerate(lines.items()):
                curves = by_variant.get(variant, [])
                length = min((len(curve) for curve in curves), default=0)
                if not length:
                    continue
                values = np.array([curve[:length] for curve in curves])
                x, y = values[:, :, 0].mean(axis=0) / 1e9, 100 * values[:, :, 1]
                colour = METHODS[number % len(METHODS)]
                axes.plot(x, y.mean(axis=0), color=colour, marker="o", markersize=3, label=name)
                axes.fill_between(x, y.min(axis=0), y.max(axis=0), color=colour, alpha=0.15, linewidth=0)
            axes.set_title(title)
            axes.set_xlabel("sent so far, both ways (GB)")
            axes.set_ylabel("accuracy on unseen clients (%)")
            axes.grid(axis="y")
        bounds = [axes.get_ylim() for axes in panels]
        for axes in panels:
            axes.set_ylim(min(low for low, _ in bounds), max(high for _, high in bounds))
        panels[1].legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


def curves_of(paths: Sequence[Path]) -> dict[str, dict[str, list[Curve]]]:
    """Returns, by method (with the settings in which its runs differ), the curves of its seeds for each prediction."""
    first: dict[str, dict[str, list[Curve]]] = {}
    several = set()  # methods whose curves are not the same in all groups
    drawn: list[tuple[str, str, bool, dict[str, list[Curve]]]] = []
    for tag, members in groups_of(paths):
        own: dict[tuple[str, bool], dict[str, list[Curve]]] = {}
        for path in members:
            record = read_run(path)
            for method in record.rounds:
                by_variant = own.setdefault((record.title(method), method == record.main), {})
                for variant in ("zero_shot", "zero_shot_em"):
                    by_variant.setdefault(variant, []).append(curve_of(record, method, variant))
        for (title, is_main), curves in own.items():
            drawn.append((tag, title, is_main, curves))
            if first.setdefault(title, curves) != curves:
                several.add(title)
    return {
        f"{title} [{tag}]" if tag and (is_main or title in several) else title: curves
        for tag, title, is_main, curves in drawn
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
