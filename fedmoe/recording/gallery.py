"""The report's pictures in their order, each with the caption that says what to look for."""

from collections.abc import Callable
from dataclasses import dataclass

from fedmoe.recording.curves import draw_accuracy, draw_bytes, draw_clients, draw_entropy, draw_load
from fedmoe.recording.heatmaps import draw_affinity, draw_assignment, draw_partition
from fedmoe.recording.plots import Picture
from fedmoe.recording.run_record import RunRecord

__all__ = ["GALLERY", "Exhibit"]


@dataclass(frozen=True)
class Exhibit:
    """A picture of the report.

    Attributes:
        title: its heading.
        draw: makes the figure, or the sentence that stands in its place.
        caption: what is drawn, and what to look for.
    """

    title: str
    draw: Callable[[RunRecord], Picture]
    caption: str


GALLERY = (
    Exhibit(
        "Accuracy on unseen clients over rounds",
        draw_accuracy,
        """Solid: as the model predicts. Dashed: with label-prior correction by EM on the client's unlabelled inputs.
        Dotted: the gate-weighted mixture of the held experts. Look for who is ahead at the end, and whether the lines
        still rise: if they do, the run was too short to rank them.""",
    ),
    Exhibit(
        "Each unseen client",
        draw_clients,
        """A column is a client that took no part in training; a mark is its accuracy under one method, without prior
        correction. Look for clients at the left that another method would have served far better: a good mean can
        hide them.""",
    ),
    Exhibit(
        "Which expert takes which class",
        draw_affinity,
        """Share of each class's samples, over all unseen clients, that went to each expert in the last evaluation; a
        column adds up to 100 %. Look for dark blocks: an expert with classes of its own has specialised, an even
        column is a class that the gate cannot place.""",
    ),
    Exhibit(
        "Which client holds which expert",
        draw_assignment,
        """Left: of the rounds in which a training client took part, the share in which it held each expert; clients
        with the same leading expert stand side by side. Right: the experts that each unseen client got in the last
        evaluation. Look for steps: they mean that
        the ranking has settled.""",
    ),
    Exhibit(
        "How sure the gate is",
        draw_entropy,
        """Entropy of the gate's scores on unseen samples. Falling: the gate learns to choose. On the dashed line it
        does not choose at all; near zero early on, it may have chosen too soon.""",
    ),
    Exhibit(
        "How many clients held each expert",
        draw_load,
        """A bar is a round (or several, in a long run), a colour an expert. Look for a colour that fades out: an expert
        that nobody holds learns nothing more.""",
    ),
    Exhibit(
        "What it cost to send",
        draw_bytes,
        """Left: bytes down and up so far, by the ledger. Right: accuracy for the bytes spent. Read the right panel from
        its left edge: the higher curve buys more accuracy for the same traffic.""",
    ),
    Exhibit(
        "Who holds which labels",
        draw_partition,
        """Samples of each class on each client; darker is more (on a square-root scale), white is none. Lines part
        anchors, normal and unseen clients. Look at how unlike the columns are: this decides which method can win.""",
    ),
)
