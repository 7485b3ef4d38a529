"""The page for researchers names all that a run records, and links from page to page hit their headings."""

import json
import re
from pathlib import Path

import pytest

from tests.small import rounds_of, run_small, small_config

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/how-it-works.md"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md"))]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    return run_small(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def grouped_folder(tmp_path_factory):
    return run_small(tmp_path_factory.mktemp("grouped"), settings=small_config(strategy__name="fedprints"))


def told(section):
    """Returns what stands in code marks in a section of the page."""
    text = PAGE.read_text().partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    return set(re.findall(r"`([^`\n]+)`", text))


def test_every_key_of_rounds_jsonl_is_explained(run_folder, grouped_folder):
    line = rounds_of(grouped_folder)[-1] | rounds_of(run_folder)[-1]
    assert set(line) | set(line["evaluate"]) <= told("`rounds.jsonl`")
    assert set(line["evaluate"]["methods"]) <= told("The test on unseen clients")


def test_every_key_of_the_summary_is_explained(run_folder):
    summary = json.loads((run_folder / "summary.json").read_text())
    assert set(summary) | set(summary["unseen"]) | set(summary["seconds"]) <= told("`summary.json`")


def test_every_file_of_the_run_folder_is_explained(run_folder):
    files = {path.name + "/" * path.is_dir() for path in run_folder.iterdir()}
    assert files - {"baselines/"} <= told("The run folder")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_to_a_heading_leads_to_one(page):
    for target, anchor in re.findall(r"\]\(([^)#\s:]*)#([\w-]+)\)", page.read_text()):
        headings = re.findall(r"^#+ (.+)$", (page.parent / target if target else page).read_text(), re.M)
        known = [re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings]
        assert anchor in known, f"{page.name}: {target}#{anchor}"
