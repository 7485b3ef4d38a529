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
UNBROKEN = ("accuracy", "worst decile")
LEAST = {"method": 24, "difference": 19}  # characters that are not broken, however narrow the terminal
LABEL, WIDE = 40, 96  # a method's characters where the terminal has so many columns
NARROW = 12  # characters of a prediction where it has less


@dataclass(frozen=True)
class Difference:
    """A row's accuracy minus the reference's, seed by seed.

    Attributes:
        mean: over the seeds that both have, in [-1, 1].
        low: lower end of the 95 % confidence interval of the mean (Student's t over seeds); `None` for a single seed.
        high: its upper end.
        pairs: the seeds that both have.
    """

    mean: float
    low: float | None
    high: float | None
    pairs: int


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
        return Difference(float(gaps[0]), None, None, 1)
    mean, half = float(gaps.mean()), interval(gaps)
    return Difference(mean, mean - half, mean + half, len(gaps))


def comparison_table(rows: Sequence[Row], against: str = "", width: int = WIDE) -> Table:
    """Returns the rows as a table for the terminal; differences are to the row that `reference_of` finds.

    What the rows of a method share stands once, below its name: settings, seeds, traffic, seconds a round.

    Args:
        rows: at least one.
        against: as `reference_of` takes it.
        width: of the terminal, in characters; 80 are enough.
    """
    reference = reference_of(rows, against)
    caption = (
        f"%, mean ± std over seeds; worst decile: of the unseen clients; difference: to {reference.method}, "
        f"{reference.prediction}, paired by seed, over the seeds that both have, with its 95 % interval"
    )
    table = Table(
        title="accuracy on unseen clients",
        title_style="bold",
        caption=Text(caption),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=0,
    )
    for column in SHOWN:
        justify: JustifyMethod = "left" if column in ("method", "prediction") else "right"
        head = column.replace(" ", "\n")
        most = NARROW if column == "prediction" and width < WIDE else None
        no_wrap = column in UNBROKEN
        table.add_column(head, justify=justify, no_wrap=no_wrap, min_width=LEAST.get(column), max_width=most)
    label = LABEL if width >= WIDE else LEAST["method"]
    for _, members in groupby(rows, key=lambda row: row.method):
        for cells in _section(list(members), reference, label):
            table.add_row(*map(Text, cells))  # Text: a tag in [brackets] is no markup
        table.add_section()
    return table


def to_markdown(rows: Sequence[Row], against: str = "") -> str:
    """Returns the rows as a Markdown table."""
    reference = reference_of(rows, against)
    titles = {
        "accuracy": "accuracy, %",
        "difference": f"to {reference.method}, {reference.prediction}",
        "seconds": "seconds a round",
    }
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
    if told is not None and told.pairs < len(values):
        gap += f" over {_counted(told.pairs)}"
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


def _section(rows: Sequence[Row], reference: Row, label: int) -> list[tuple[str, ...]]:
    """Returns a method's rows of cells for the terminal; beside the first of them all that they share."""
    *_, traffic, seconds = _cells(rows[0], reference)
    shared = [rows[0].name, *(line for setting in rows[0].settings for line in _setting_lines(setting, label))]
    shared.append(f" {_counted(len(rows[0].seeds))}" + (f", {traffic}" if traffic != "-" else ""))
    shared += [f" {seconds_text(float(np.mean(rows[0].seconds)))} a round"] if seconds != "-" else []
    lines = []
    for row in rows:
        _, prediction, accuracy, worst, gap, *_ = _cells(row, reference)
        seeds = len(row.seeds)
        titled = prediction if seeds == len(rows[0].seeds) else f"{prediction} ({_counted(seeds)})"
        lines.append((titled, accuracy, worst, gap.replace(" over ", "\nover ")))
    return [(left or "", *(line or ("",) * 4)) for left, line in zip_longest(shared, lines)]


def _setting_lines(setting: str, label: int) -> list[str]:
    """Returns a setting in one line, or its section and the rest in two where it is longer than `label`."""
    section, dot, rest = setting.partition(".")
    return [f" {setting}"] if len(setting) < label or not dot else [f" {section}.", f"  {rest}"]


def _counted(seeds: int) -> str:
    return f"{seeds} seed{'' if seeds == 1 else 's'}"
