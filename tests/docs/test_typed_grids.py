"""The sweeps and maps that pages tell of can be typed: a shell runs their blocks, where `uv` only notes its words."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache, reduce
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from benchmarks import groups, regimes
from benchmarks.regime_settings import chosen
from benchmarks.seeds import seeds_of
from fedmoe.cli import cli
from fedmoe.sweep.command import places_of
from fedmoe.sweep.grid import points_of
from tests.test_readme import PAGES, ROOT, blocks

BASH = str(shutil.which("bash"))
NOTE = r"""uv() { printf '%s\0' "$@" $'\n'; }
"""  # words end with 0; a line break for a word ends a command
MAPS = {"benchmarks.regimes": regimes, "benchmarks.groups": groups}
TOLD = re.compile(r"fedmoe sweep|benchmarks\.(?:regimes|groups)\b")


def typed(page: str) -> Iterator[list[str]]:
    """Yields the words that each `uv` of a page's blocks gets, in blocks that tell of a sweep or a map.

    Variables, functions and loops are the shell's own; nothing but `uv` and what is built into the shell can be run.
    """
    for language, lines in blocks(page):
        if language == "bash" and TOLD.search("\n".join(lines)):
            script = NOTE + "\n".join(lines)
            done = subprocess.run([BASH, "--norc", "-euc", script], env={"PATH": ""}, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            yield from (command.split("\0") for command in done.stdout.split("\0\n\0")[:-1])


def check_sweep(words: list[str], output: Path) -> int:
    """Refuses a sweep whose options, grid or settings are not allowed; returns how many runs it has, of a seed."""
    group = get_command(cli)
    sweep: Any = group.commands["sweep"]  # type: ignore[attr-defined]
    asked = sweep.make_context("sweep", words).params
    points_of(asked["over"])
    over = [re.sub(r"\bseed=(\d+)\.\.\d+", r"seed=\1", line) for line in asked["over"]]  # a seed changes no rule
    return len(places_of(ROOT / asked["simulation"], over, output, asked["run_config"] or [], jobs=1))


@cache
def check_regime(name: str, roots: tuple[str, str], more: tuple[str, ...]) -> None:
    """Refuses a regime whose runs' settings are not allowed."""
    regimes.runs_of([(name, 0)], Path("nowhere"), roots, more, 1)


def check_map(name: str, words: list[str]) -> int:
    """Refuses a map's command whose options, regimes, seeds or settings are not allowed; returns its regimes."""
    asked = MAPS[name].asked_of(words)
    roots = (asked.fashion, asked.cifar)
    names = chosen(asked.only, roots, asked.run_config, to_train=not getattr(asked, "draw_only", False))
    assert seeds_of(asked.seeds)
    for regime in names:
        check_regime(regime, roots, tuple(asked.run_config))
    return len(names)


def written(page: str, folder: Path) -> dict[str, str]:
    """Writes the page's own files, blocks that open with `# name.py`; returns a path in the page -> the file."""
    found = {}
    for language, lines in blocks(page):
        named = re.match(r"# (\w+\.py)$", lines[0]) if language == "python" and lines else None
        if named:
            file = folder / named[1]
            file.write_text("\n".join(lines))
            found[f"/path/to/{file.name}"] = str(file)
    return found


def check_block(page: str, output: Path) -> list[int]:
    """Returns the sizes of the sweeps and maps of a page."""
    sizes, own = [], written(page, output)
    for told in typed(page):
        words = [reduce(lambda word, file: word.replace(file, own[file]), own, word) for word in told]
        if words[:3] == ["run", "fedmoe", "sweep"]:
            sizes.append(check_sweep(words[3:], output))
        elif words[:3] == ["run", "python", "-m"] and words[3] in MAPS:
            sizes.append(check_map(words[3], words[4:]))
    return sizes


def several(page: Path) -> Any:
    """Returns the page as a test's argument; one of many grids takes its time."""
    many = len(TOLD.findall(page.read_text())) > 5
    return pytest.param(page, id=str(page.relative_to(ROOT)), marks=pytest.mark.slow if many else ())


@pytest.mark.parametrize("page", [several(page) for page in PAGES])
def test_every_sweep_and_map_of_a_page_can_be_typed(page: Path, tmp_path: Path) -> None:
    sizes = check_block(page.read_text(), tmp_path)
    assert all(sizes)
    assert bool(sizes) == bool(TOLD.search("\n".join(line for _, lines in blocks(page.read_text()) for line in lines)))


# The checks themselves: what they must find, and what they must not.

SAMPLE = """
```bash
A="evaluate.baselines='' seed=7"
both() {{ uv run fedmoe sweep simulations/quickstart --output $1 -c "$A {setting}" --over "$2 seed=0..1" {option}; }}
both one "strategy.name={name},fedavg"
for k in 1 2; do both two "experts.top-k=$k"; done
uv run python -m {module} {map}
```
"""
MODULE = "benchmarks.groups"
GOOD = {"setting": "", "option": "", "name": "fedjets", "module": MODULE, "map": "--only '^(iid|rotated)$'"}


def test_sweeps_are_found_through_functions_and_loops_with_what_they_run(tmp_path: Path) -> None:
    assert check_block(SAMPLE.format(**GOOD), tmp_path) == [2, 1, 1, 2]
    assert check_block("```bash\npip install uv && uv run pytest\n```\n", tmp_path) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"setting": "train.learning-rat=0.1"}, "unknown setting"),
        ({"setting": "experts.num=1"}, "must be"),
        ({"name": "fedjest"}, "fedjets"),
        ({"option": "--job 2"}, "No such option"),
        ({"map": "--only '^sources$'"}, "--cifar must name"),
        ({"map": "--only iid --seeds 12..10"}, "upwards"),
        ({"map": "--only iid --jobs 2"}, "2"),  # argparse ends the process
        ({"module": "benchmarks.regimes", "map": "--output X --only '^rotate$'"}, "--only must fit"),
        ({"module": "benchmarks.regimes", "map": "--output X"}, "--cifar must name"),
        ({"map": '--only "$UNTOLD"'}, "UNTOLD"),
    ],
)
def test_one_that_cannot_be_typed_is_found(change: dict[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises((Exception, SystemExit), match=message):
        check_block(SAMPLE.format(**{**GOOD, **change}), tmp_path)
