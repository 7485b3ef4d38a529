"""The page of strategies tells of every strategy that there is, and of no other."""

import re
from pathlib import Path

from fedmoe.references import known_names

ROOT = Path(__file__).parents[2]


def told(page: str) -> list[tuple[str, int]]:
    """Returns (name, number of cells) of each row of the page's table."""
    rows = re.findall(r"^\| `(\w+)` \|.*\|$", page, re.M)
    lines = [line for line in page.splitlines() if re.match(r"\| `\w+` \|", line)]
    return list(zip(rows, [line.count(" | ") + 1 for line in lines], strict=True))


def test_every_strategy_has_one_whole_row() -> None:
    rows = told((ROOT / "docs/strategies.md").read_text())
    assert sorted(name for name, _ in rows) == sorted(known_names("strategies"))
    assert {cells for _, cells in rows} == {5}, "name, method, bytes, how it serves, what it is held against"


def test_the_readme_counts_them() -> None:
    (others,) = re.findall(r"beside \[(\d+) others\]\(docs/strategies\.md\)", (ROOT / "README.md").read_text())
    assert int(others) == len(known_names("strategies")) - 1
