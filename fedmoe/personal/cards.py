"""Each image as a card on the page: the picture, the answer, its expert, and where the gate would have sent it."""

import base64
import io
from collections.abc import Sequence

import numpy as np
from matplotlib.colors import to_hex
from numpy.typing import NDArray
from PIL import Image

from fedmoe.personal.personalized import MIXTURE, Personalized
from fedmoe.recording.page import words
from fedmoe.recording.plots import expert_colours
from fedmoe.recording.wording import percent

__all__ = ["CARDS", "MOST_SHOWN", "cards", "legend", "ranking_rows", "shown_rows"]

MOST_SHOWN = 200  # images on a page: more, and nobody looks at them

CARDS = """
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(128px, 1fr)); gap: 10px; margin: 14px 0; }
.card { border: 2px solid var(--line); border-radius: 8px; padding: 8px; font-size: 13px; line-height: 1.35; }
.card.right { border-color: #44aa99; } .card.wrong { border-color: #cc6677; }
.card img { width: 84px; height: 84px; object-fit: contain; image-rendering: pixelated; display: block;
            margin: 0 auto 6px; background: #f4f6f8; }
.card b { font-size: 15px; overflow-wrap: anywhere; } .card .soft { color: var(--soft); }
.chip { display: inline-block; border-radius: 4px; padding: 0 6px; color: #fff; font-weight: 600;
        text-shadow: 0 0 2px #000; }
.strip { display: flex; height: 8px; border-radius: 4px; overflow: hidden; margin-top: 6px; background: var(--line); }
.strip i { display: block; height: 8px; }
.rank { display: grid; grid-template-columns: 92px 1fr 64px 150px; gap: 6px 12px; align-items: center; max-width: 720px;
        margin: 12px 0; font-variant-numeric: tabular-nums; }
.rank .bar { background: #f4f6f8; height: 14px; border-radius: 4px; } .rank .bar i { display: block; height: 14px;
        border-radius: 4px; }
"""


def shown_rows(size: int) -> list[int]:
    """Returns which of `size` images are shown: all, or 200 at even steps.

    >>> len(shown_rows(7)), len(shown_rows(1000)), shown_rows(1000)[-1]
    (7, 200, 999)
    """
    if size <= MOST_SHOWN:
        return list(range(size))
    return [int(row) for row in np.linspace(0, size - 1, MOST_SHOWN).round()]


def legend(found: Personalized) -> str:
    """Returns a chip for each expert, those that were fetched in words; nothing where there is but one."""
    if len(found.scores) == 1:
        return ""
    chips = [
        f"{_chip(expert, colour)}{' fetched' if expert in found.experts else ''}"
        for expert, colour in enumerate(_colours(found))
    ]
    return f"<p>{' &nbsp; '.join(chips)}</p>"


def ranking_rows(found: Personalized) -> str:
    """Returns a bar for each expert of the pool, best first."""
    mean_M, colours = found.routing.mean(axis=0), _colours(found)
    order = [*found.experts, *(i for i in np.argsort(-found.scores, kind="stable") if i not in found.experts)]
    rows = []
    for expert in order:
        bar = f'<div class="bar"><i style="width:{100 * mean_M[expert]:.1f}%;background:{colours[expert]}"></i></div>'
        told = f"score {found.scores[expert]:.3f}{', held' if expert in found.experts else ''}"
        rows.append(
            f"<span>{_chip(int(expert), colours[expert])}</span>{bar}<span>{percent(float(mean_M[expert]))}</span>"
            f"<span>{words(told)}</span>"
        )
    return f'<div class="rank">{"".join(rows)}</div>'


def cards(found: Personalized, rows: Sequence[int]) -> str:
    """Returns the cards of these samples."""
    colours = _colours(found)
    return f'<div class="cards">{"".join(_card(found, row, colours) for row in rows)}</div>'


def _card(found: Personalized, row: int, colours: Sequence[str]) -> str:
    answer, alone = int(found.predictions[row]), int(found.ways["plain"].predictions[row])
    kind, truth = "", ""
    if found.labels is not None:
        label = int(found.labels[row])
        kind = "right" if label == answer else "wrong"
        truth = "" if label == answer else f"<br>is {words(found.class_names[label])}"
    chosen = int(found.chosen[row])
    who = _chip(chosen, colours[chosen]) if chosen >= 0 else "mixture" if chosen == MIXTURE else "common expert"
    sure = percent(float(found.probabilities[row, answer]), 0)
    name = found.files[row] if found.files else f"image {row}"
    under = f"<br>{words(name)}" if found.files else ""
    before = f"alone: {found.class_names[alone]}, {percent(float(found.ways['plain'].probabilities[row, alone]), 0)}"
    return (
        f'<div class="card {kind}"><img alt="{words(name)}" title="{words(name)}" '
        f'src="data:image/png;base64,{png(found.images[row])}">'
        f"<b>{words(found.class_names[answer])}</b> {words(sure)}{truth}<br>"
        f"{who if len(found.scores) > 1 else 'the model'}<br>"
        f'<span class="soft">{words(before)}{under}</span>{_strip(found, row, colours)}</div>'
    )


def _strip(found: Personalized, row: int, colours: Sequence[str]) -> str:
    if found.routed_by == "none":
        return ""
    shares = found.routing[row]
    told = ", ".join(f"expert {expert}: {share:.2f}" for expert, share in enumerate(shares))
    parts = "".join(
        f'<i style="width:{100 * share:.1f}%;background:{colour}"></i>'
        for share, colour in zip(shares, colours, strict=True)
    )
    return f'<div class="strip" title="{words(told)}">{parts}</div>'


def png(image: NDArray[np.uint8]) -> str:
    """Returns an image (channels, height, width) as a PNG in base64; of other than 3 channels the first is shown."""
    pixels = image.transpose(1, 2, 0) if len(image) == 3 else image[0]
    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(out, format="PNG")
    return base64.b64encode(out.getvalue()).decode()


def _chip(expert: int, colour: str) -> str:
    return f'<span class="chip" style="background:{colour}">expert {expert}</span>'


def _colours(found: Personalized) -> list[str]:
    return [to_hex(colour) for colour in expert_colours(len(found.scores))]
