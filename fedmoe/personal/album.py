"""The page for one fresh client: what it got, what that cost, and each image with its expert and answer."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fedmoe.personal.cards import CARDS, cards, legend, ranking_rows, shown_rows
from fedmoe.personal.personalized import Personalized
from fedmoe.personal.wording import (
    accuracy_rows,
    cost_rows,
    experts_text,
    fetched,
    headline,
    milliseconds,
    total,
    whole_pool,
    whole_text,
)
from fedmoe.recording.atomic import write_atomic
from fedmoe.recording.page import box, page, table, tiles, words
from fedmoe.recording.wording import bytes_text, method_title, percent, stand_in_warning

__all__ = ["write_page"]


def write_page(found: Personalized, path: str | Path, record: Mapping[str, Any] | None = None) -> Path:
    """Writes the page and returns its absolute path; what stood there is replaced.

    Args:
        found: what the client got.
        path: the page's file.
        record: a run's summary or environment, for its warning that other data stand in.

    Raises:
        RunFolderError: the page cannot be written.
    """
    file = Path(path).expanduser().absolute()
    title = f"{method_title(found.method)} for {found.who}"
    write_atomic(file, page(title, _parts(title, found, record or {})).encode())
    return file


def _parts(title: str, found: Personalized, record: Mapping[str, Any]) -> Iterator[str]:
    warning = stand_in_warning(record)
    count, round_num = len(found.images), found.round_num
    under = f"{count} images, ranked and answered without a label, by the checkpoint of round {round_num}."
    yield f"<style>{CARDS}</style>"
    yield f"<h1>{words(title)}</h1>\n<p class='under'>{words(under)}</p>"
    yield box("loud", [warning] if warning else [])
    first, *others = headline(found)
    rest = "".join(f"<p>{words(text)}</p>" for text in others)
    yield f'<div class="answer"><p class="headline">{words(first)}</p>{rest}</div>'
    yield tiles(_tiles(found))
    yield box("note", found.notes)
    if found.labels is not None:
        yield "<h2>Before and after</h2>"
        yield table(["who answers", "prediction", "right"], accuracy_rows(found), 2)
        yield _caption(
            "Before: the common expert alone, which every client has. After: the experts that were fetched. Prior "
            "correction estimates the labels' shares from the same images, without a label. Labels are only counted "
            "here, after everything was chosen."
        )
    yield "<h2>What was fetched, and how long it took</h2>"
    yield table(["", "bytes", "time"], cost_rows(found), 1)
    yield _caption(
        "Bytes: 4 a value, as the ledger counts them. Times: measured once, in one process that had run one image "
        "before; the weights were read from disk, array by array out of the checkpoint, where a real client would "
        "fetch them over its network."
    )
    if found.routed_by != "none":
        yield "<h2>How the experts rank</h2>"
        yield ranking_rows(found)
        yield _caption(_ranking_caption(found))
    yield "<h2>The images</h2>"
    rows = shown_rows(len(found.images))
    some = f"{len(rows)} of the {len(found.images)} images, at even steps. " if len(rows) < len(found.images) else ""
    yield _caption(some + _card_caption(found))
    yield legend(found)
    yield cards(found, rows)


def _tiles(found: Personalized) -> list[tuple[str, str]]:
    figures = [
        (bytes_text(fetched(found)), f"fetched for this client: {experts_text(found)}"),
        (bytes_text(whole_pool(found)), whole_text(found)),
        (milliseconds(total(found)), "from the first look to the answers"),
    ]
    told = found.accuracies
    if told:
        figures += [(percent(told["plain"]), "right before"), (percent(told["zero_shot"]), "right after")]
    return figures


def _ranking_caption(found: Personalized) -> str:
    how = {
        "gate": "The gate's probability of each expert, mean over the images: it sees embeddings, never a label.",
        "confidence": "The softmax of each expert's confidence (minus the entropy of what it predicts), mean over the "
        "images: there is no gate.",
    }
    return f"{how[found.routed_by]} The score is what the method ranks by; the held experts are marked."


def _card_caption(found: Personalized) -> str:
    routed = {"gate": "the gate's probabilities", "confidence": "the experts' confidence", "none": ""}[found.routed_by]
    strip = f" The strip is {routed} over the whole pool, by the colours below." if routed else ""
    alone = " Below it: what the common expert alone would have said."
    marks = " A green frame: right; a red one: wrong, with the true class." if found.labels is not None else ""
    return f"Each image with the answer, its probability, and the expert that gave it.{alone}{strip}{marks}"


def _caption(text: str) -> str:
    return f"<figcaption>{words(text)}</figcaption>"
