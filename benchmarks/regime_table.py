"""The map as a table and as a figure."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.regime_cells import OURS, Cell
from benchmarks.regime_grid import METHODS, REGIMES
from benchmarks.regime_rows import Accuracies, Row, best_other, guests_of, summary_rows
from fedmoe.recording.interval import interval

__all__ = ["draw", "markdown", "told_interval"]


def texts(row: Row, guests: Sequence[str] = ()) -> list[str]:
    """Returns a row's cells, as `heads` names them."""
    several = len(row.seeds) > 1
    means = [
        f"{100 * a.mean():.1f} ± {100 * a.std(ddof=1):.1f}" if several else f"{100 * a.mean():.1f}"
        for a in (row.accuracies[method] for method in METHODS)
    ]
    groups = sorted(set(row.groups))
    found = str(groups[0]) if len(groups) == 1 else f"{groups[0]} to {groups[-1]}"
    sent = " / ".join(f"{row.megabytes[method]:.0f}" for method in SENDERS)
    guarded = told_interval(row.guarded[OURS] - row.guarded[best_other(row.guarded)]) if row.guarded else "-"
    own = [cell for guest in guests for cell in guest_texts(row, guest)]
    return [*means, told_interval(row.lead), guarded, found, sent, str(len(row.seeds)), *own]


def guest_texts(row: Row, guest: str) -> tuple[str, str, str]:
    """Returns a guest's mean, its lead over the best of the map's own methods, and its megabytes."""
    if guest not in row.accuracies:
        return "-", "-", "-"
    accuracies = row.accuracies[guest]
    lead = accuracies - row.accuracies[best_other(row.accuracies, than=guest)]
    return f"{100 * accuracies.mean():.1f}", told_interval(lead), f"{row.megabytes[guest]:.0f}"


def told_interval(differences: Accuracies) -> str:
    """Returns the mean of paired differences in points, with its 95 % confidence interval if there are several."""
    lead, half = 100 * differences.mean(), 100 * interval(differences)
    return f"{lead:+.1f} [{lead - half:+.1f}, {lead + half:+.1f}]" if len(differences) > 1 else f"{lead:+.1f}"


SENDERS = ("fedavg", "fedjets", OURS)  # what sends anything; logit adjustment and where experts start cost no byte
IF_GUARDED = "the same, others guarded too"  # a column for rows whose runs tell guarded correction of all methods
HEADS = [
    *METHODS.values(),
    "FedPrints against the best other [95 %]",
    IF_GUARDED,
    "groups found, at most M",
    "MB of FedAvg / FedJETs / FedPrints",
    "seeds",
]


def heads(guests: Sequence[str]) -> list[str]:
    """Returns the titles of the columns: the map's own, and three for each guest."""
    own = [title for guest in guests for title in (guest, f"{guest} against the best of the map [95 %]", "its MB")]
    return [*HEADS, *own]


def markdown(cells: Sequence[Cell]) -> str:
    """Returns the map as a Markdown table."""
    guests, rows = guests_of(cells), summary_rows(cells)
    table = [["regime", *heads(guests)], *([REGIMES[row.regime].title, *texts(row, guests)] for row in rows)]
    if not any(row.guarded for row in rows):
        dashes = table[0].index(IF_GUARDED)
        table = [[*cells[:dashes], *cells[dashes + 1 :]] for cells in table]
    head, *body = ["| " + " | ".join(cells) + " |" for cells in table]
    lines = [head, "|---" + "|--:" * (len(table[0]) - 1) + "|", *body]
    return "\n".join(lines) + "\n"


def mean_of(row: Row, method: str) -> float:
    """Returns a method's mean in percent; NaN where it was not run."""
    return 100 * float(row.accuracies[method].mean()) if method in row.accuracies else float("nan")


def draw(cells: Sequence[Cell], file: Path) -> None:
    """Draws the map: a row a regime, a column a method, coloured by the points behind the row's best."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    rows, titles = summary_rows(cells), {**METHODS, **{guest: guest for guest in guests_of(cells)}}
    means = np.array([[mean_of(row, method) for method in titles] for row in rows])
    behind = np.nanmax(means, axis=1, keepdims=True) - means
    size = (9 + 1.2 * (len(titles) - len(METHODS)), 1.6 + 0.42 * len(rows))
    figure, axes = plt.subplots(figsize=size, layout="constrained")
    image = axes.imshow(behind, cmap="RdYlGn_r", vmin=0, vmax=15, aspect="auto", alpha=0.6)
    for y, row in enumerate(means):
        for x, mean in enumerate(row):
            told, weight = "" if np.isnan(mean) else f"{mean:.1f}", "bold" if behind[y, x] < 0.05 else "normal"
            axes.text(x, y, told, ha="center", va="center", fontweight=weight)
    axes.set_xticks(range(len(titles)), [title.replace(" + ", "\n+ ") for title in titles.values()])
    axes.xaxis.tick_top()
    axes.set_title("accuracy on unseen clients without labels, percent", pad=12)
    axes.set_yticks(range(len(rows)), [REGIMES[row.regime].title for row in rows])
    kinds = [REGIMES[row.regime].kind for row in rows]
    for y in range(1, len(rows)):
        if kinds[y] != kinds[y - 1]:
            axes.axhline(y - 0.5, color="black", linewidth=1.5)
    figure.colorbar(image, label="points behind the best of the row", shrink=0.6)
    figure.savefig(file, dpi=150)
    plt.close(figure)
