"""The report's HTML: one page with its style and pictures inside, and not one address to fetch from."""

import base64
from collections.abc import Iterable, Sequence
from html import escape

from fedmoe.recording.plots import Picture, svg

__all__ = ["box", "details", "figure_html", "page", "table", "tiles", "words"]

STYLE = """
:root { color-scheme: light; --ink: #1d1d1f; --soft: #5d6168; --line: #e3e5e8; --accent: #0072b2; }
* { box-sizing: border-box; }
body { margin: 0; background: #fff; color: var(--ink); line-height: 1.55;
       font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 940px; margin: 0 auto; padding: 48px 28px 80px; }
h1 { font-size: 30px; line-height: 1.2; margin: 0 0 4px; letter-spacing: -0.01em; }
h2 { font-size: 21px; margin: 52px 0 4px; padding-top: 18px; border-top: 1px solid var(--line); }
.under { color: var(--soft); margin: 0 0 26px; }
.headline { font-size: 21px; line-height: 1.4; font-weight: 600; margin: 0 0 8px; }
.answer { border-left: 4px solid var(--accent); padding: 2px 0 2px 20px; margin: 0 0 24px; }
.answer p { margin: 0 0 8px; }
.answer p:last-child { margin: 0; }
.box { border-radius: 8px; padding: 14px 18px; margin: 0 0 20px; border: 2px solid; }
.box p { margin: 0; }
.loud { background: #fff2c9; border-color: #e69f00; font-size: 18px; font-weight: 600; }
.warn { background: #fdf1ec; border-color: #e7b49a; }
.note { background: #f4f6f8; border-color: #e3e5e8; }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(134px, 1fr)); gap: 12px; margin: 0 0 20px; }
.tile { border: 1px solid var(--line); border-radius: 8px; padding: 12px 14px; }
.tile b { display: block; white-space: nowrap; font-size: 24px; line-height: 1.25; font-variant-numeric: tabular-nums; }
.tile span { color: var(--soft); font-size: 14px; line-height: 1.35; display: block; }
table { border-collapse: collapse; width: 100%; font-size: 15px; margin: 10px 0; }
th { text-align: left; color: var(--soft); font-weight: 600; border-bottom: 2px solid var(--line); padding: 6px 10px; }
td { border-bottom: 1px solid var(--line); padding: 6px 10px; vertical-align: top; overflow-wrap: anywhere; }
.num { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
tr.main td { font-weight: 600; background: #f1f7fb; }
tr.bound td { color: var(--soft); font-style: italic; }
figure { margin: 14px 0 0; }
figure img { width: 100%; height: auto; display: block; }
figcaption, .missing { color: var(--soft); font-size: 15px; margin-top: 4px; max-width: 78ch; }
.missing { background: #f4f6f8; border-radius: 8px; padding: 12px 16px; }
details { border: 1px solid var(--line); border-radius: 8px; padding: 10px 16px; margin: 12px 0; }
summary { cursor: pointer; font-weight: 600; }
code { font: 14px/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace; overflow-wrap: anywhere; }
@media print { details { break-inside: avoid; } figure { break-inside: avoid; } main { padding: 0; } }
"""


def words(text: str) -> str:
    """Returns plain text as HTML; a number and its per cent sign stay on one line."""
    return escape(text).replace(" %", "\u00a0%")


def page(title: str, parts: Iterable[str]) -> str:
    """Returns the whole page from its parts, which are HTML already."""
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{words(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(part for part in parts if part)
        + "\n</main>\n</body>\n</html>\n"
    )


def box(kind: str, texts: Sequence[str]) -> str:
    """Returns a box of the kind `loud`, `warn` or `note` with a paragraph a text; nothing when there is no text."""
    paragraphs = "".join(f"<p>{words(text)}</p>" for text in texts)
    return f'<div class="box {kind}">{paragraphs}</div>' if texts else ""


def tiles(figures: Sequence[tuple[str, str]]) -> str:
    """Returns a row of tiles from (number, what it is)."""
    cells = "".join(
        f'<div class="tile"><b>{words(number)}</b><span>{words(what)}</span></div>' for number, what in figures
    )
    return f'<div class="tiles">{cells}</div>'


def table(header: Sequence[str], rows: Iterable[tuple[str, Sequence[str]]], text_columns: int) -> str:
    """Returns a table of (row's class, cells); the first `text_columns` columns are words, the others numbers."""

    def line(cells: Sequence[str], tag: str) -> str:
        number = [' class="num"' if place >= text_columns else "" for place in range(len(cells))]
        return "".join(f"<{tag}{kind}>{words(cell)}</{tag}>" for kind, cell in zip(number, cells, strict=True))

    body = "\n".join(f'<tr class="{words(kind)}">{line(cells, "td")}</tr>' for kind, cells in rows)
    return f"<table>\n<thead><tr>{line(header, 'th')}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>"


def figure_html(title: str, picture: Picture, caption: str) -> str:
    """Returns a heading and a figure with its caption, or the sentence that stands in the figure's place.

    The SVG stands in an `img`: inline, the ids inside one picture would clash with those of the next.
    """
    heading = f"<h2>{words(title)}</h2>"
    if isinstance(picture, str):
        return f'{heading}\n<p class="missing">{words(picture)}</p>'
    source = base64.b64encode(svg(picture)).decode()
    return (
        f'{heading}\n<figure><img alt="{words(title)}" src="data:image/svg+xml;base64,{source}">'
        f"<figcaption>{words(' '.join(caption.split()))}</figcaption></figure>"
    )


def details(title: str, rows: Sequence[tuple[str, str]]) -> str:
    """Returns a folded table of (name, value)."""
    body = "\n".join(f"<tr><td>{words(name)}</td><td><code>{words(value)}</code></td></tr>" for name, value in rows)
    return f"<details><summary>{words(title)}</summary>\n<table><tbody>\n{body}\n</tbody></table></details>"
