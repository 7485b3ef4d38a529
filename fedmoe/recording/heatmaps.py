"""Plots as tables of colour: class by expert, client by expert, and who holds which labels."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from fedmoe.recording.plots import Picture, blank, styled
from fedmoe.recording.run_record import RunRecord

__all__ = ["draw_affinity", "draw_assignment", "draw_partition"]

COLOURS = "Blues"
NAMED = 30
"""More columns than this stay without a name each: the names would lie over each other."""


def draw_affinity(record: RunRecord) -> Picture:
    """Returns the share of each class's unseen samples that went to each expert, in the last evaluation."""
    if record.dense(record.main):
        return f"{record.title(record.main)} trains one model: every class goes to it."
    lines = [line for line in record.evaluated(record.main) if line["evaluate"].get("affinity")]
    if not lines:
        return "There is no evaluation on unseen clients yet."
    share = np.array(lines[-1]["evaluate"]["affinity"], dtype=float)
    order = _by_leader(np.nan_to_num(share))
    names = record.partition.get("classes") or [str(label) for label in range(share.shape[1])]
    with styled():
        figure, (axes,) = blank(1.6 + 0.3 * min(len(share), 20))
        image = axes.imshow(100 * share[:, order], cmap=COLOURS, vmin=0, vmax=100, aspect="auto", interpolation="none")
        _name_experts(axes, len(share))
        few = len(order) <= NAMED
        axes.set_xticks(range(len(order)) if few else [], [names[label] for label in order] if few else [])
        if few and max(len(names[label]) for label in order) * len(order) > 90:
            axes.tick_params(axis="x", rotation=40)
        axes.set_xlabel(f"{'' if few else f'{len(order)} '}classes, those of the same leading expert side by side")
        if len(order) <= 15:
            _write_numbers(axes, 100 * share[:, order])
        _bar(figure, image, axes, "samples of the class (%)")
    return figure


def draw_assignment(record: RunRecord) -> Picture:
    """Returns how often each training client held each expert, and beside it the experts of each unseen client."""
    if record.dense(record.main):
        return f"{record.title(record.main)} trains one model: there is nothing to assign."
    rounds = [line for line in record.rounds[record.main] if line.get("assignment")]
    if not rounds:
        return "No round has ended yet."
    num_experts = len(rounds[-1]["load"])
    held: dict[int, NDArray[Any]] = {}
    for line in rounds:
        for client, experts in line["assignment"].items():
            row = held.setdefault(int(client), np.zeros(num_experts + 1))
            row[[*experts, num_experts]] += 1
    anchors = {int(client): expert for client, expert in (record.partition.get("anchors") or {}).items()}
    table = {client: row[:-1] / row[-1] for client, row in held.items()}
    normal = sorted(set(table) - set(anchors))
    normal = [normal[i] for i in _by_leader(np.array([table[c] for c in normal]).T)] if normal else []
    first = sorted(set(table) & set(anchors), key=lambda client: anchors[client])
    columns = np.array([table[client] for client in [*first, *normal]]).T
    unseen = _unseen(record, num_experts)
    with styled():
        widths = [max(4, columns.shape[1]), max(4, unseen.shape[1])] if unseen.size else None
        figure, panels = blank(1.6 + 0.28 * min(num_experts, 20), columns=2 if unseen.size else 1, widths=widths)
        image = panels[0].imshow(100 * columns, cmap=COLOURS, vmin=0, vmax=100, aspect="auto", interpolation="none")
        _name_experts(panels[0], num_experts)
        panels[0].set_xticks([])
        panels[0].set_xlabel(f"{len(normal)} normal clients" + (f", after {len(first)} anchors" if first else ""))
        if first and normal:
            panels[0].axvline(len(first) - 0.5, color="#D55E00", linewidth=1.4)
        if unseen.size:
            panels[1].imshow(100 * unseen, cmap=COLOURS, vmin=0, vmax=100, aspect="auto", interpolation="none")
            panels[1].set_xticks([])
            panels[1].set_yticks([])
            panels[1].set_xlabel(f"{unseen.shape[1]} unseen")
        _bar(figure, image, panels, "of its rounds (%)")
    return figure


def draw_partition(record: RunRecord) -> Picture:
    """Returns who holds which labels: samples by class and client, anchors first, unseen clients last."""
    counts = np.array(record.partition.get("counts") or [], dtype=float)
    if not counts.size:
        return "The run has not written who holds which labels."
    roles = _by_role(record.partition, len(counts))
    columns = counts[[row for rows, _ in roles for row in rows]].T
    names = record.partition.get("classes") or [str(label) for label in range(len(columns))]
    with styled():
        figure, (axes,) = blank(min(6.0, 1.4 + 0.24 * len(columns)))
        scale = PowerNorm(0.5, vmin=0, vmax=max(1.0, float(columns.max())))
        image = axes.imshow(columns, cmap=COLOURS, norm=scale, aspect="auto", interpolation="none")
        few = len(columns) <= NAMED
        axes.set_yticks(range(len(columns)) if few else [], list(names) if few else [])
        axes.set_ylabel("" if few else f"{len(columns)} classes")
        axes.set_xticks([])
        left = 0
        for rows, words in roles:
            if rows:
                middle = left + (len(rows) - 1) / 2
                axes.text(middle, -0.8, words, ha="center", va="bottom", fontsize=9)
            if left > 0 and rows:
                axes.axvline(left - 0.5, color="#D55E00", linewidth=1.4)
            left += len(rows)
        axes.set_xlabel("clients, a column each")
        _bar(figure, image, axes, "samples")
    return figure


def _by_role(partition: Mapping[str, Any], num_rows: int) -> list[tuple[list[int], str]]:
    """Returns the table's rows of anchors, normal and unseen clients, each with a word on how many there are."""
    listed = partition.get("clients") or range(num_rows)
    num_training = int(partition.get("num_training", num_rows))
    anchors = {int(client) for client in partition.get("anchors") or {}}
    rows: list[list[int]] = [[], [], []]
    for row, client in enumerate(listed):
        rows[0 if client in anchors else 1 if client < num_training else 2].append(row)
    totals = (len(anchors), num_training - len(anchors), partition.get("num_unseen", len(rows[2])))
    return [
        (own, f"{total} {role}" if len(own) == total else f"{len(own)} of {total:,} {role}")
        for own, total, role in zip(rows, totals, ("anchors", "normal clients", "unseen"), strict=True)
    ]


def _by_leader(share_MC: NDArray[Any]) -> list[int]:
    """Returns the columns in the order of the row that leads in them, the clearest first."""
    leader, height = share_MC.argmax(axis=0), share_MC.max(axis=0)
    return [int(column) for column in np.lexsort((np.arange(len(leader)), -height, leader))]


def _unseen(record: RunRecord, num_experts: int) -> NDArray[Any]:
    """Returns 1 where an unseen client holds an expert in the last evaluation (experts by clients), else 0."""
    lines = record.evaluated(record.main)
    rows = (
        [row["experts"] for row in (lines[-1]["evaluate"].get("clients") or []) if row.get("experts")] if lines else []
    )
    held = np.zeros((num_experts, len(rows)))
    for column, experts in enumerate(rows):
        held[experts, column] = 1
    return held[:, _by_leader(held)] if rows else held


def _name_experts(axes: Axes, num_experts: int) -> None:
    axes.set_yticks(range(num_experts), [f"expert {expert}" for expert in range(num_experts)])
    axes.tick_params(length=0)


def _write_numbers(axes: Axes, values: NDArray[Any]) -> None:
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            colour = "white" if value > 55 else "#333333"
            axes.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=8.5, color=colour)


def _bar(figure: Figure, image: Any, axes: Any, label: str) -> None:
    for spine in (spine for one in np.ravel(axes) for spine in one.spines.values()):
        spine.set_visible(False)
    bar = figure.colorbar(image, ax=axes, pad=0.015, aspect=18, label=label)
    bar.outline.set_visible(False)
