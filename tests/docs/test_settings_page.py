"""The page of settings says what the schema and the strategies say."""

import inspect
import re
from dataclasses import fields
from pathlib import Path

import pytest

from fedmoe.errors import SettingsError
from fedmoe.references import known_names, load_plugin
from fedmoe.settings.loading import leaves
from fedmoe.settings.reference import BEGIN, END, settings_reference, write_reference

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/settings.md"
PACKAGES = {
    "data.name": "fedmoe.data.datasets",
    "clients.partition": "fedmoe.data.partitions",
    "clients.domains": "fedmoe.data.transforms",
    "gate.name": "fedmoe.moe.gates",
    "experts.model": "fedmoe.moe.experts",
    "strategy.name": "strategies",
}


def cells(text):
    """Returns the rows of the page's tables, as cells."""
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines() if line[:1] == "|"]


def test_the_tables_are_those_of_the_schema():
    told = PAGE.read_text().partition(BEGIN)[2].partition(END)[0]
    assert told.strip() == settings_reference(), "uv run python -m fedmoe.settings.reference docs/settings.md"


def test_every_setting_has_its_row_with_a_default_and_help():
    rows = {row[0].strip("`"): row for row in cells(settings_reference())}
    for key, item in leaves():
        assert rows[key][1] == type(item.default).__name__
        assert str(item.default).lower() in rows[key][2].lower()
        assert rows[key][4] == item.metadata["help"]


def test_writing_the_page_again_changes_nothing_and_a_page_without_markers_is_refused(tmp_path):
    copy = tmp_path / "settings.md"
    copy.write_text(PAGE.read_text())
    write_reference(copy)
    assert copy.read_text() == PAGE.read_text()
    copy.write_text(f"{END} the wrong way round {BEGIN}")
    with pytest.raises(SettingsError, match="must hold the markers"):
        write_reference(copy)


def test_the_strategies_that_the_page_tells_of_have_these_arguments():
    rows = {row[0].strip("`"): row[1:3] for row in cells(PAGE.read_text()) if re.match(r"`strategy\.\w+\.", row[0])}
    expected = {}
    for name in {key.split(".")[1] for key in rows} | {"fedjets", "fedavg", "fedprox"}:
        for item in fields(load_plugin("strategy", "strategies", name)):
            text = str(item.default).lower() if isinstance(item.default, bool) else str(item.default)
            told = f'`"{text}"`' if isinstance(item.default, str) else f"`{text}`"
            expected[f"strategy.{name}.{item.name.replace('_', '-')}"] = [type(item.default).__name__, told]
    assert rows == expected


@pytest.mark.parametrize("key", PACKAGES)
def test_the_short_names_are_names_that_there_are(key):
    rows = [row for row in cells(PAGE.read_text()) if len(row) == 2 and f"`{key}`" in row[0]]
    names = [name.replace("-", "_") for name in re.findall(r"`([\w-]+)`", rows[0][1])]
    assert names
    assert set(names) <= set(known_names(PACKAGES[key])), (
        "a new plug-in may be told of; one that is told of must be there"
    )


@pytest.mark.parametrize(("kind", "package"), [("gate", "fedmoe.moe.gates"), ("experts", "fedmoe.moe.experts")])
def test_the_gates_and_experts_that_the_page_tells_of_have_these_arguments(kind, package):
    rows = {row[0].strip("`"): row[1:3] for row in cells(PAGE.read_text()) if re.match(rf"`{kind}\.\w+\.", row[0])}
    expected = {}
    for name in {key.split(".")[1] for key in rows}:
        for item in inspect.signature(load_plugin(kind, package, name)).parameters.values():
            if item.kind is item.KEYWORD_ONLY:
                text = str(item.default).lower() if isinstance(item.default, bool) else str(item.default)
                told = f'`"{text}"`' if isinstance(item.default, str) else f"`{text}`"
                expected[f"{kind}.{name}.{item.name.replace('_', '-')}"] = [type(item.default).__name__, told]
    assert rows == expected
