"""The notebook is well-formed, and its cells run in order, as somebody would run them who opens it in docs/."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "docs/personalize.ipynb"


def cells(kind):
    return ["".join(cell["source"]) for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == kind]


def printed():
    """What the code cells printed when the notebook was last executed."""
    found = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    texts = [out["text"] for cell in found for out in cell["outputs"] if out.get("name") == "stdout"]
    return "".join("".join(text) for text in texts)


def test_it_is_a_notebook_that_every_reader_opens():
    book = json.loads(NOTEBOOK.read_text())
    assert (book["nbformat"], sorted(book["metadata"])) == (4, ["kernelspec", "language_info"])
    for cell in book["cells"]:
        assert isinstance(cell["source"], list)
        assert set(cell) == {"cell_type", "metadata", "source"} | (
            {"execution_count", "outputs"} if cell["cell_type"] == "code" else set()
        )
    counts = [cell["execution_count"] for cell in book["cells"] if cell["cell_type"] == "code"]
    assert counts == list(range(1, len(counts) + 1)), "executed from top to bottom"
    assert not [line for line in printed().splitlines() if "/" in line], "no path of somebody's machine"


@pytest.mark.slow
def test_its_cells_run_in_order_and_print_as_much_as_stands_there(tmp_path):
    script = tmp_path / "cells.py"
    script.write_text("\n\n".join(cells("code")))
    (tmp_path / "scratch").mkdir()
    places = {"FEDMOE_HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path / "scratch"), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, script],
        cwd=NOTEBOOK.parent,
        env=os.environ | places,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert [len(line.split(":")) for line in done.stdout.splitlines()] == [
        len(line.split(":")) for line in printed().splitlines()
    ]
    (page,) = (tmp_path / "scratch").glob("fedmoe-*/page.html")
    assert "FedJETs for the owner of 241 pictures in pictures" in page.read_text()
