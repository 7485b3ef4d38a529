"""The settings as a page: Markdown tables of every key, with type, default, range and help, out of the schema."""

import sys
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Any, cast

from fedmoe.errors import SettingsError
from fedmoe.settings.loading import leaves
from fedmoe.settings.schema import Settings

__all__ = ["settings_reference", "write_reference"]

BEGIN, END = "<!-- settings:begin -->", "<!-- settings:end -->"
HEADS = "| key | type | default | allowed | what it is |\n| --- | --- | --- | --- | --- |"


def settings_reference() -> str:
    """Returns a Markdown table for each group of settings under a heading of its own; keys without a group come first.

    >>> print(settings_reference().splitlines()[0])
    ### The run as a whole
    """
    groups: dict[str, list[str]] = {}
    for key, item in leaves():
        group = key.rpartition(".")[0]
        groups.setdefault(group, []).append(_row(key, item))
    titles = dict(_titles())
    return "\n\n".join(f"### {titles[group]}\n\n{HEADS}\n" + "\n".join(rows) for group, rows in groups.items())


def write_reference(page: Path) -> None:
    """Puts the tables between the page's markers, in place of what stands there.

    Raises:
        SettingsError: the page lacks a marker.
    """
    text = page.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SettingsError(f"'{page}' must hold the markers {BEGIN} and {END}, got neither or one of them")
    page.write_text(f"{before}{BEGIN}\n\n{settings_reference()}\n\n{END}{after}")


def _titles() -> Iterator[tuple[str, str]]:
    """Yields (group, its title): the first line of the group's docstring, after its name."""
    yield "", "The run as a whole"
    for item in fields(Settings):
        if item.default_factory is not MISSING and is_dataclass(item.default_factory):
            name = item.name.replace("_", "-")
            told = (cast(type, item.default_factory).__doc__ or "").splitlines()[0].rstrip(".")
            yield name, f"`{name}`: {told[:1].lower()}{told[1:]}"


def _row(key: str, item: "Field[Any]") -> str:
    cells = (f"`{key}`", type(item.default).__name__, _toml(item.default), _allowed(item), item.metadata["help"])
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def _toml(value: Any) -> str:
    """Returns the value as it is written in TOML, in Markdown's code marks."""
    text = str(value).lower() if isinstance(value, bool) else f'"{value}"' if isinstance(value, str) else str(value)
    return f"`{text}`"


def _allowed(item: "Field[Any]") -> str:
    """Returns the range or the choices, or nothing."""
    choices = item.metadata["choices"]
    if choices:
        return ", ".join(_toml(choice) for choice in choices)
    bounds = (("low", ">="), ("above", ">"), ("high", "<="), ("below", "<"))
    return ", ".join(f"{sign} {item.metadata[name]:g}" for name, sign in bounds if item.metadata[name] is not None)


if __name__ == "__main__":
    write_reference(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/settings.md"))
