"""The ground of every plot: size, type, colours that colour-blind people tell apart, and SVG text out."""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

__all__ = ["GREY", "INK", "Picture", "blank", "expert_colours", "method_colours", "rounds_axis", "styled", "svg"]

Picture = Figure | str
"""A figure, or the sentence that stands in its place when there is nothing to draw."""

INK, GREY = "#222222", "#8a8a8a"

# Okabe and Ito (2008), the strongest first; grey is kept for the common expert.
METHODS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")

# Paul Tol's "muted" scheme; grey closes it.
EXPERTS = (
    "#332288", "#88CCEE", "#44AA99", "#117733", "#999933", "#DDCC77", "#CC6677", "#882255", "#AA4499", "#777777",
)  # fmt: skip

# `Any`: the stubs of newer matplotlib list every key, those of older ones do not.
STYLE: Any = {
    "font.size": 10,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.grid": False,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.8,
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "svg.fonttype": "path",
    "svg.hashsalt": "fedmoe",
}


@contextmanager
def styled() -> Iterator[None]:
    """Gives figures that are made inside of it the report's type and lines; the caller's own settings stay."""
    with mpl.rc_context(STYLE):
        yield


def blank(height: float = 3.6, columns: int = 1, widths: Sequence[float] | None = None) -> tuple[Figure, list[Axes]]:
    """Returns an empty figure ten inches wide and its axes, side by side; no global state is touched."""
    figure = Figure(figsize=(10, height), layout="constrained")
    axes = figure.subplots(1, columns, squeeze=False, width_ratios=widths)
    return figure, list(axes[0])


def rounds_axis(axes: Axes) -> None:
    """Makes the horizontal axis one of rounds: whole numbers, with a light grid across."""
    axes.set_xlabel("round")
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y")
    axes.set_axisbelow(True)


def expert_colours(num_experts: int) -> list[Any]:
    """Returns a colour for each expert: all different, up to ten of them easy to tell apart."""
    if num_experts <= len(EXPERTS):
        return list(EXPERTS[:num_experts])
    return [mpl.colormaps["turbo"](0.05 + 0.9 * expert / (num_experts - 1)) for expert in range(num_experts)]


def method_colours(methods: Sequence[str]) -> dict[str, str]:
    """Returns a colour for each method, in their order; the common expert is grey."""
    drawn = [method for method in methods if method != "common expert"]
    colours = {method: METHODS[number % len(METHODS)] for number, method in enumerate(drawn)}
    return colours | {"common expert": "#555555"}


def svg(figure: Figure) -> bytes:
    """Returns the figure as SVG that names no address to fetch, its letters drawn as outlines: the same everywhere."""
    out = io.BytesIO()
    with styled():
        figure.savefig(out, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = out.getvalue()
    return text[text.index(b"<svg") :]
