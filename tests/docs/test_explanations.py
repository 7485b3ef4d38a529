"""The page for researchers names all that a run records."""

import json
import re
from pathlib import Path

import pytest

from tests.small import rounds_of, run_small

PAGE = Path(__file__).parents[2] / "docs/how-it-works.md"


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    return run_small(tmp_path_factory.mktemp("run"))


def told(section):
    """Returns what stands in code marks in a section of the page."""
    text = PAGE.read_text().partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    return set(re.findall(r"`([^`\n]+)`", text))


def test_every_key_of_rounds_jsonl_is_explained(run_folder):
    line = rounds_of(run_folder)[-1] | {"seconds": None}
    assert set(line) | set(line["evaluate"]) <= told("`rounds.jsonl`")
    assert set(line["evaluate"]["methods"]) <= told("The test on unseen clients")


def test_every_key_of_the_summary_is_explained(run_folder):
    summary = json.loads((run_folder / "summary.json").read_text())
    assert set(summary) | set(summary["unseen"]) | set(summary["seconds"]) <= told("`summary.json`")


def test_every_file_of_the_run_folder_is_explained(run_folder):
    files = {path.name + "/" * path.is_dir() for path in run_folder.iterdir()}
    assert files - {"baselines/"} <= told("The run folder")
