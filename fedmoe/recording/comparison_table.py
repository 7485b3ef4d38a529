"""Methods side by side as a table: in the terminal, as Markdown, as CSV; differences are paired by seed."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, zip_longest

import numpy as np
from rich import box
from rich.console import JustifyMethod
from rich.table import Table
from rich.text import Text

from fedmoe.errors import RunFolderError
from fedmoe.recording.comparison import COLD, MEASURES, Row
from fedmoe.recording.interval import interval
from fedmoe.recording.wording import bytes_text, seconds_text

__all__ = ["Difference", "comparison_table", "difference", "reference_of", "to_csv", "to_markdown"]

COLUMNS = ("method", "prediction", "accuracy", "worst decile", "difference", "seeds", "traffic", "seconds")
SHOWN = COLUMNS[:5]  # in the terminal; the others stand below a method's name
TEXTS = ("method", "prediction")


@dataclass(frozen=True)
class Difference:
    """A row's accuracy minus the reference's, seed by seed.

    Attributes:
        mean: over the seeds that both have, in [-1, 1].
        low: lower end of the 95 % confidence interval of the mean (Student's t over seeds); `None` for a single seed.
        high: its upper end.
    """

    mean: float
    low: float | None
    high: float | None


def reference_of(rows: Sequence[Row], against: str) -> Row:
    """Returns the row that the others are held against: the first one whose title begins so, or the first of all.

    Args:
        rows: at least one.
        against: the beginning of `method, prediction`, capital letters or not; empty: the first row.

    Raises:
        RunFolderError: no row's title begins so.
    """
    for row in rows:
        if f"{row.method}, {row.prediction}".lower().startswith(against.lower()):
            return row
    known = ", ".join(dict.fromkeys(row.method for row in rows))
    raise RunFolderError(f"--against must be the beginning of a row's title, got '{against}'; hint: one of {known}")


def difference(row: Row, reference: Row) -> Difference | None:
    """Returns how far the row stands above the reference, paired by seed; `None` where they share no seed."""
    pairs = dict(zip(reference.seeds, reference.accuracies, strict=True))
    gaps = np.array([own - pairs[seed] for seed, own in zip(row.seeds, row.accuracies, strict=True) if seed in pairs])
    if not len(gaps):
        return None
    if len(gaps) == 1:
        return Difference(float(gaps[0]), None, None)
    mean, half = float(gaps.mean()), interval(gaps)
    return Difference(mean, mean - half, mean + half)


def comparison_table(rows: Sequence[Row], against: str = "") -> Table:
    """Returns the rows as a table for the terminal; differences are to the row that `reference_of` finds.

    What the rows of a method share stands once, below its name: settings, seeds, traffic, seconds a round.
    """
    reference = reference_of(rows, against)
    caption = (
        f"%, mean ± std over seeds; worst decile: of the unseen clients; difference: to {reference.method}, "
        f"{reference.prediction}, paired by seed, with its 95 % interval"
    )
    table = Table(
        title="accuracy on unseen clients",
        title_style="bold",
        caption=Text(caption),
        caption_justify="left",
        box=box.HORIZONTALS,
        pad_edge=False,
    )
    for column in SHOWN:
        justify: JustifyMethod = "left" if column in TEXTS else "right"
        table.add_column(column.replace(" ", "\n"), justify=justify, overflow="fold", no_wrap=column not in TEXTS)
    for _, members in groupby(rows, key=lambda row: row.method):
        for cells in _section(list(members), reference):
            table.add_row(*map(Text, cells))  # Text: a tag in [brackets] is no markup
        table.add_section()
    return table


def to_markdown(rows: Sequence[Row], against: str = "") -> str:
    """Returns the rows as a Markdown table."""
    reference = reference_of(rows, against)
    titles = {"accuracy": "accuracy, %", "difference": f"to {reference.method}, {reference.prediction}"}
    head = "| " + " | ".join(titles.get(column, column) for column in COLUMNS) + " |"
    lines = [head, "|---|---|" + "--:|" * (len(COLUMNS) - 2)]
    return "\n".join([*lines, *("| " + " | ".join(_cells(row, reference)) + " |" for row in rows)])


def to_csv(rows: Sequence[Row]) -> str:
    """Returns a line for each row and seed; accuracies in [0, 1], experts counted; empty where a method has none.

    `std_over_clients` is that of the accuracies of one seed's unseen clients.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    head = ("method", "prediction", "seed", "accuracy", "worst_decile", "traffic_bytes", "round_seconds")
    told_of = {name for row in rows for told in row.measures for name in told if name.startswith(COLD)}
    names = (*MEASURES, *sorted(told_of, key=lambda name: int(name.removeprefix(COLD))))
    writer.writerow((*head, *("std_over_clients" if name == "std" else name for name in names)))
    for row in rows:
        measures = row.measures or ({},) * len(row.seeds)
        by_seed = zip(row.seeds, row.accuracies, row.worst, row.traffic, row.seconds, measures, strict=True)
        for seed, accuracy, worst, traffic, seconds, told in by_seed:
            own = (row.method, row.prediction, seed, accuracy, worst, traffic or None, seconds or None)
            writer.writerow((*own, *(told.get(name) for name in names)))
    return out.getvalue()


def _cells(row: Row, reference: Row) -> tuple[str, ...]:
    values = 100 * np.asarray(row.accuracies)
    spread = f" ± {values.std(ddof=1):.1f}" if len(values) > 1 else ""
    told = None if row == reference else difference(row, reference)
    gap = "-" if told is None else f"{100 * told.mean:+.1f}"
    if told is not None and told.low is not None and told.high is not None:
        gap += f" [{100 * told.low:+.1f}, {100 * told.high:+.1f}]"
    return (
        row.method,
        row.prediction,
        f"{values.mean():.1f}{spread}",
        f"{100 * np.mean(row.worst):.1f}",
        gap,
        str(len(values)),
        bytes_text(float(np.mean(row.traffic))) if any(row.traffic) else "-",
        f"{np.mean(row.seconds):.3g}" if any(row.seconds) else "-",
    )


def _section(rows: Sequence[Row], reference: Row) -> list[tuple[str, ...]]:
    """Returns a method's rows of cells for the terminal; beside the first of them all that they share."""
    first = _cells(rows[0], reference)
    seeds, traffic, seconds = first[5:]
    told = [_counted(seeds), traffic if traffic != "-" else ""]
    told.append(f"{seconds_text(float(np.mean(rows[0].seconds)))} a round" if seconds != "-" else "")
    shared = [rows[0].name, *(f" {setting}" for setting in rows[0].settings), f" {', '.join(filter(None, told))}"]
    lines = []
    for row in rows:
        _, prediction, accuracy, worst, gap, own, *_ = _cells(row, reference)
        lines.append((prediction if own == seeds else f"{prediction} ({_counted(own)})", accuracy, worst, gap))
    return [(left or "", *(line or ("",) * 4)) for left, line in zip_longest(shared, lines)]


def _counted(seeds: str) -> str:
    return f"{seeds} seed{'' if seeds == '1' else 's'}"
