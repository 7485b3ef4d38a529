"""Plots over rounds, and over clients: accuracy, expert load, routing entropy, bytes, each unseen client."""

import math
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from fedmoe.recording.plots import GREY, Picture, blank, expert_colours, method_colours, rounds_axis, styled
from fedmoe.recording.run_record import RunRecord

__all__ = ["draw_accuracy", "draw_bytes", "draw_clients", "draw_entropy", "draw_load"]

NOT_EVALUATED = "There is no evaluation on unseen clients yet."
MAX_BARS = 120
SPAN = 10.0

LINES = {"zero_shot": "-", "zero_shot_em": "--", "mixture": ":"}
WORDS = {"zero_shot": "", "zero_shot_em": " + prior correction", "mixture": ", mixture"}


def draw_accuracy(record: RunRecord) -> Picture:
    """Returns mean accuracy on unseen clients over rounds, of every method, with and without prior correction."""
    if not any(record.evaluated(method) for method in record.rounds):
        return NOT_EVALUATED
    colours = method_colours(list(record.rounds))
    with styled():
        figure, (axes,) = blank(4.2)
        for method in record.rounds:
            for variant, line in LINES.items():
                if variant == "mixture" and record.dense(method):
                    continue
                points = _means(record, method, variant)
                if points:
                    width = 2.4 if method == record.main and variant == "zero_shot" else 1.5
                    label = record.title(method) + WORDS[variant]
                    style: dict[str, Any] = {"linestyle": line, "linewidth": width, "color": colours[method]}
                    axes.plot(*zip(*points, strict=True), label=label, marker="o", markersize=3, **style)
        for variant, line in (("plain", "-"), ("em", "--")):
            mean = (record.figures().get("common expert", {}).get(variant) or {}).get("mean")
            if mean is not None:
                label = "Common expert" + (" + prior correction" if variant == "em" else "")
                axes.axhline(100 * mean, color=GREY, linestyle=line, linewidth=1.3, label=label, zorder=1)
        rounds_axis(axes)
        axes.set_ylabel("accuracy on unseen clients, mean (%)")
        low, high = axes.get_ylim()
        # A first evaluation would be magnified to fractions of a point, and look like a contest.
        axes.set_ylim(min(low, (low + high - SPAN) / 2), max(high, (low + high + SPAN) / 2))
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


def draw_load(record: RunRecord) -> Picture:
    """Returns how many clients held each expert, stacked, over rounds."""
    rounds = record.rounds[record.main]
    if not rounds:
        return "No round has ended yet."
    if record.dense(record.main):
        return f"{record.title(record.main)} trains one model: every client of a round holds it."
    load = np.array([line["load"] for line in rounds], dtype=float)
    numbers = np.array([line["round"] for line in rounds], dtype=float)
    size = math.ceil(len(rounds) / MAX_BARS)
    starts = np.arange(0, len(rounds), size)
    counts = np.diff([*starts, len(rounds)])
    heights = np.add.reduceat(load, starts, axis=0) / counts[:, None]
    centres = np.add.reduceat(numbers, starts) / counts
    with styled():
        figure, (axes,) = blank(3.8)
        bottom = np.zeros(len(starts))
        for expert, colour in enumerate(expert_colours(load.shape[1])):
            axes.bar(centres, heights[:, expert], 0.86 * size, bottom=bottom, color=colour, label=f"expert {expert}")
            bottom += heights[:, expert]
        rounds_axis(axes)
        axes.set_ylabel("clients that held it" + (f"\n(mean of {size} rounds)" if size > 1 else ""))
        handles, labels = axes.get_legend_handles_labels()
        axes.legend(handles[::-1], labels[::-1], loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


def draw_entropy(record: RunRecord) -> Picture:
    """Returns the gate's entropy on unseen samples over rounds, with the entropy of a gate that does not choose."""
    if record.dense(record.main):
        return f"{record.title(record.main)} trains one model: there is no gate whose choice could be unsure."
    lines = record.evaluated(record.main)
    points = [(line["round"], line["evaluate"].get("routing_entropy")) for line in lines]
    points = [(number, entropy) for number, entropy in points if entropy is not None]
    if not points:
        return NOT_EVALUATED
    num_experts = len(lines[-1]["load"])
    with styled():
        figure, (axes,) = blank(3.0)
        axes.plot(*zip(*points, strict=True), marker="o", markersize=3.5, color="#0072B2")
        most = math.log(num_experts)
        axes.axhline(most, color=GREY, linestyle="--", linewidth=1.2)
        axes.annotate(
            f"no choice at all: ln {num_experts} = {most:.2f}",
            (1.0, most), xycoords=("axes fraction", "data"), xytext=(-4, -12), textcoords="offset points",
            ha="right", color="#555555",
        )  # fmt: skip
        rounds_axis(axes)
        axes.set_ylim(0, 1.08 * max(most, *(entropy for _, entropy in points)))
        axes.set_ylabel("routing entropy (nats)")
    return figure


def draw_clients(record: RunRecord) -> Picture:
    """Returns the accuracy of every unseen client, a dot for each method, clients from worst to best."""
    accuracy: dict[str, dict[int, float]] = {}
    for method in record.rounds:
        lines = record.evaluated(method)
        rows = lines[-1]["evaluate"].get("clients") or [] if lines else []
        told = {row["client_id"]: row["zero_shot"] for row in rows if row.get("zero_shot") is not None}
        if told:
            accuracy[method] = told
    if not accuracy:
        return NOT_EVALUATED
    order = accuracy.get(record.main) or next(iter(accuracy.values()))
    clients = sorted(order, key=lambda client: (order[client], client))
    colours = method_colours(list(record.rounds))
    with styled():
        figure, (axes,) = blank(3.8)
        for place, client in enumerate(clients):
            dots = [100 * told[client] for told in accuracy.values() if client in told]
            axes.plot([place, place], [min(dots), max(dots)], color="#dddddd", linewidth=1.2, zorder=1)
        size = max(12.0, min(46.0, 1600 / len(clients)))
        for (method, told), marker in zip(accuracy.items(), "osD^vP" * 9, strict=False):
            places = [(place, 100 * told[client]) for place, client in enumerate(clients) if client in told]
            style: dict[str, Any] = {"marker": marker, "color": colours[method], "label": record.title(method)}
            style |= {"edgecolor": "white", "linewidth": 0.5, "zorder": 3 if method == record.main else 2}
            across, up = zip(*places, strict=True)
            axes.scatter(across, up, s=size, **style)
        axes.grid(axis="y")
        axes.set_axisbelow(True)
        few = len(clients) <= 40
        axes.set_xticks(range(len(clients)) if few else [], [str(client) for client in clients] if few else [])
        axes.set_xlabel(
            f"unseen client{'' if few else 's'}, from worst to best by {record.title(next(iter(accuracy)))}"
        )
        axes.set_ylabel("accuracy (%)")
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


def draw_bytes(record: RunRecord) -> Picture:
    """Returns two panels: bytes sent so far over rounds, and accuracy over bytes sent so far."""
    sent = {method: _sent(rounds) for method, rounds in record.rounds.items() if rounds}
    if not any(sent.values()):
        return "No bytes have been counted yet."
    unit, word = _unit(max(max(told.values()) for told in sent.values() if told))
    colours = method_colours(list(record.rounds))
    with styled():
        figure, (left, right) = blank(3.4, columns=2)
        for method, told in sent.items():
            values = [value / unit for value in told.values()]
            left.plot(list(told), values, color=colours[method], label=record.title(method))
            points = [
                (told[number] / unit, mean) for number, mean in _means(record, method, "zero_shot") if number in told
            ]
            if points:
                style: dict[str, Any] = {"marker": "o", "markersize": 3, "color": colours[method]}
                right.plot(*zip(*points, strict=True), **style)
        rounds_axis(left)
        left.set_ylim(bottom=0)
        left.set_ylabel(f"sent so far, both ways ({word})")
        left.legend(loc="upper left")
        _accuracy_over(right, word)
    return figure


def _accuracy_over(axes: Axes, word: str) -> None:
    axes.grid(axis="y")
    axes.set_axisbelow(True)
    axes.set_xlabel(f"sent so far, both ways ({word})")
    axes.set_ylabel("accuracy on unseen clients (%)")
    if not axes.lines:
        axes.text(0.5, 0.5, "no evaluation yet", transform=axes.transAxes, ha="center", color=GREY)


def _means(record: RunRecord, method: str, variant: str) -> list[tuple[int, float]]:
    """Returns (round, mean accuracy in per cent) for each evaluation that has the variant."""
    found = [(line["round"], line["evaluate"]["methods"].get(variant)) for line in record.evaluated(method)]
    return [(number, 100 * told["mean"]) for number, told in found if told and told.get("mean") is not None]


def _sent(rounds: list[dict[str, Any]]) -> dict[int, float]:
    """Returns round -> bytes sent both ways up to its end."""
    totals = np.cumsum(
        [(line.get("bytes") or {}).get("down", 0) + (line.get("bytes") or {}).get("up", 0) for line in rounds]
    )
    return {line["round"]: float(total) for line, total in zip(rounds, totals, strict=True)} if totals[-1] else {}


def _unit(most: float) -> tuple[float, str]:
    return next(((size, word) for size, word in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")) if most >= size), (1.0, "B"))
