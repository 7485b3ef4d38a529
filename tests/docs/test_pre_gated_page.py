"""The code on the page of Pre-gated MoE runs as it stands."""

import re
from pathlib import Path

from fedmoe.personal.shelf import DiskShelf

ROOT = Path(__file__).parents[2]


def test_the_example_serves_every_sample_from_files() -> None:
    (block,) = re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs/systems/pre-gated.md").read_text(), re.M | re.S)
    names: dict[str, object] = {}
    exec(block, names)
    answers, shelf = names["answers"], names["shelf"]
    assert isinstance(answers, list)
    assert len(answers) == 5
    assert all(0 <= answer < 10 for answer in answers)
    assert isinstance(shelf, DiskShelf)
    assert len(list(shelf.folder.iterdir())) == 12
