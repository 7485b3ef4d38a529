"""What the README and the docs say can be typed, and what they point at is there."""

import re
import shlex
from pathlib import Path

import pytest

from fedmoe.flower.local_run import read_config
from fedmoe.settings import from_flat

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md")), *sorted(ROOT.glob("simulations/*/README.md"))]
TWO = ["pip install uv && uv run flwr run simulations/cifar100 --stream", "uv run pytest"]

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def blocks(text):
    """Returns the fenced blocks of a page: (language, lines), with continued lines joined."""
    found = re.findall(r"^( *)(```+|~~~+)([^\n`]*)\n(.*?)^\1\2\s*$", text, re.M | re.S)
    return [(language.strip(), body.replace("\\\n", " ").splitlines()) for _, _, language, body in found]


def commands(text):
    """Yields each command of the fenced blocks as words: prompts, comments and what stands before `&&` are left out."""
    for language, lines in blocks(text):
        if language in ("", "bash", "sh", "shell", "console"):
            for line in lines:
                typed = re.sub(r"\$[a-z]+", "0", line.strip().removeprefix("$ "))  # a shell variable: any value
                for part in typed.split("&&"):
                    if words := shlex.split(part, comments=True):
                        yield words


def simulation_commands(text):
    """Yields (folder, what is given to `--run-config`) of each command that runs a simulation."""
    for words in commands(text):
        words = [word for word in words if "=" not in word or not re.fullmatch(r"[A-Z_]+=.*", word)]
        if words[:2] == ["uv", "run"]:
            words = words[2:]
        if words[:2] in (["flwr", "run"], ["fedmoe", "run"]):
            options = zip(words, [*words[1:], ""], strict=True)
            yield words[2], [value for name, value in options if name in ("--run-config", "-c")]


def links(text):
    """Yields the targets of links and pictures outside of code that lead to a file of the project."""
    prose = re.sub(r"^( *)(```+|~~~+).*?^\1\2\s*$|`[^`\n]*`", "", text, flags=re.M | re.S)
    for target in re.findall(r"\]\(<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\)", prose) + re.findall(
        r'(?:src|href)="([^"]+)"', prose
    ):
        if not re.match(r"[a-z]+:|#", target):
            yield target.partition("#")[0]


def check_command(folder, given):
    """Refuses a command whose simulation, keys or values are not there or not allowed."""
    _, flat = read_config(ROOT / folder, [str(ROOT / one) if one.endswith(".toml") else one for one in given])
    assert from_flat(flat)


def test_the_readme_opens_with_exactly_two_commands():
    first, *_ = blocks((ROOT / "README.md").read_text())
    assert [line.partition("#")[0].strip() for line in first[1] if line.strip()] == TWO


def test_the_test_script_runs_the_second_command_and_ci_runs_the_script():
    script, ci = (ROOT / "scripts/test").read_text(), (ROOT / ".ci/run").read_text()
    assert f'{TWO[1]} "$@"' in script.splitlines()
    assert {"scripts/check", "scripts/test"} <= set(ci.splitlines())


@pytest.mark.parametrize("script", ["scripts/check", "scripts/test", ".ci/run"])
def test_a_script_can_be_run_and_stops_at_the_first_failure(script):
    assert (ROOT / script).stat().st_mode & 0o111 == 0o111
    lines = (ROOT / script).read_text().splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    assert "set -euo pipefail" in lines


@each_page
def test_every_link_to_a_file_leads_somewhere(page):
    assert [target for target in links(page.read_text()) if not (page.parent / target).exists()] == []


@each_page
def test_every_command_that_runs_a_simulation_can_be_typed(page):
    for folder, given in simulation_commands(page.read_text()):
        check_command(folder, given)


# The checks themselves: what they must find, and what they must not.

SAMPLE = """
[here](docs/a.md) [there](https://example.org) [top](#top) `[code](lost.md)` ![picture](docs/b.png "what it shows")
```bash
pip install uv && uv run flwr run simulations/cifar100 --stream  # a comment
FLWR_HOME=/tmp/x uv run fedmoe run simulations/quickstart \\
    --run-config "seed=3 strategy.name='fedavg'" -c conf/paper.toml
[not](a-link.md)
```
```python
flwr run nothing/of/this
```
"""


def test_links_are_those_of_the_prose_to_files():
    assert list(links(SAMPLE)) == ["docs/a.md", "docs/b.png"]


def test_commands_are_found_with_what_they_override():
    assert list(simulation_commands(SAMPLE)) == [
        ("simulations/cifar100", []),
        ("simulations/quickstart", ["seed=3 strategy.name='fedavg'", "conf/paper.toml"]),
    ]


@pytest.mark.parametrize(
    ("folder", "given"),
    [
        ("simulations/nowhere", []),
        ("simulations/quickstart", ["train.learning-rat=0.1"]),
        ("simulations/quickstart", ["experts.top-k=9"]),
        ("simulations/quickstart", ["simulations/quickstart/conf/nowhere.toml"]),
    ],
)
def test_a_command_that_cannot_be_typed_is_found(folder, given):
    with pytest.raises(Exception, match=r"must be|is a folder|unknown setting|cannot be read"):
        check_command(folder, given)
