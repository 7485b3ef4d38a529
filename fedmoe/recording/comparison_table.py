"""Methods side by side as a table: in the terminal, as Markdown, as CSV; differences are paired by seed."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from rich import box
from rich.table import Table
from rich.text import Text

from fedmoe.errors import RunFolderError, nearest_hint
from fedmoe.recording.comparison import COLD, MEASURES, Row
from fedmoe.recording.interval import interval
from fedmoe.recording.wording import bytes_text, seconds_text

__all__ = ["Difference", "comparison_table", "difference", "reference_of", "to_csv", "to_markdown"]

COLUMNS = ("method", "prediction", "accuracy", "worst decile", "difference", "seeds", "traffic", "seconds")
LABEL = 38  # characters of the terminal's first column that leave room for the figures in 80
SHOWN = COLUMNS[2:5]  # in the terminal, beside the prediction; the others stand above, where the method does


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
    hint = nearest_hint(against, {title for row in rows for title in (row.name, row.method)})
    raise RunFolderError(f"--against must be the beginning of a row's title, got '{against}'; {hint}")


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


def comparison_table(rows: Sequence[Row], against: str = "") -> Table:
    """Returns the rows as a table for the terminal, of 80 columns or more.

    Above the rows of each method stands once what they share: settings, seeds, traffic, seconds a round.

    Args:
        rows: at least one.
        against: the row that differences are to, as `reference_of` takes it.
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
    table.add_column("method\n  prediction")
    for column in SHOWN:
        table.add_column(column.replace(" ", "\n"), justify="right", no_wrap=column != "difference", min_width=6)
    for _, members in groupby(rows, key=lambda row: row.method):
        for cells in _section(list(members), reference):
            table.add_row(*cells)
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

    Each setting in which rows differ has a column, empty where a row is the same for all of its values.
    `std_over_clients` is that of the accuracies of one seed's unseen clients.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    settings = sorted({setting.partition("=")[0] for row in rows for setting in row.settings})
    head = ("method", "prediction", *settings, "seed", "accuracy", "worst_decile", "traffic_bytes", "round_seconds")
    told_of = {name for row in rows for told in row.measures for name in told if name.startswith(COLD)}
    names = (*MEASURES, *sorted(told_of, key=lambda name: int(name.removeprefix(COLD))))
    writer.writerow((*head, *("std_over_clients" if name == "std" else name for name in names)))
    for row in rows:
        measures = row.measures or ({},) * len(row.seeds)
        values = {key: value for key, _, value in (setting.partition("=") for setting in row.settings)}
        by_seed = zip(row.seeds, row.accuracies, row.worst, row.traffic, row.seconds, measures, strict=True)
        for seed, accuracy, worst, traffic, seconds, told in by_seed:
            own = (
                row.name,
                row.prediction,
                *(values.get(key) for key in settings),
                seed,
                accuracy,
                worst,
                traffic or None,
                seconds or None,
            )
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


def _section(rows: Sequence[Row], reference: Row) -> list[tuple[Text, ...]]:
    """Returns a method's rows of cells for the terminal, below all that they share."""
    *_, traffic, seconds = _cells(rows[0], reference)
    costs = [_counted(len(rows[0].seeds))] + [traffic] * (traffic != "-")
    costs += [f"{seconds_text(float(np.mean(rows[0].seconds)))} a round"] * (seconds != "-")
    shared = (*_packed(rows[0].settings), ", ".join(costs))
    lines: list[tuple[Text, ...]] = [(Text(rows[0].name, "bold"),), *((Text(line),) for line in shared)]
    for row in rows:
        _, prediction, *figures, gap, _, _, _ = _cells(row, reference)
        seeds = len(row.seeds)
        titled = prediction if seeds == len(rows[0].seeds) else f"{prediction} ({_counted(seeds)})"
        lines.append(tuple(map(Text, (f"  {titled}", *figures, gap.replace(" over ", "\nover ")))))
    return lines


def _packed(settings: Sequence[str]) -> list[str]:
    """Returns settings in lines of at most `LABEL` characters where they can be."""
    lines: list[str] = []
    for setting in settings:
        if lines and len(lines[-1]) + len(setting) + 2 <= LABEL:
            lines[-1] += f", {setting}"
        else:
            lines.append(setting)
    return lines


def _counted(seeds: int) -> str:
    return f"{seeds} seed{'' if seeds == 1 else 's'}"
