"""The code on the pages for authors of plug-ins is taken out of them and runs by reference, outside the project."""

import re
import tomllib
from pathlib import Path

import pytest
from flwr.common.config import flatten_dict

from fedmoe.flower.local_run import read_config
from fedmoe.flower.methods import methods_of
from fedmoe.flower.plugin_check import check_plugins
from fedmoe.settings import from_flat
from tests.small import newest_state, rounds_of, run_small, small_config

ROOT = Path(__file__).parents[2]
PAGES = ("docs/write-a-strategy.md", "docs/plug-ins.md", "docs/write-a-gate.md")
DIGITS = {"data__name": "digits", "data__public_samples": 60, "evaluate__every": 3}


def code_blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", (ROOT / page).read_text(), re.M | re.S)


def files_of(page):
    """Returns the page's files: a block that opens with `# name.py` is one."""
    named = [(re.match(r"# (\w+\.py)\n", block), block) for block in code_blocks(page, "python")]
    return {match[1]: block for match, block in named if match}


@pytest.fixture
def lab(tmp_path):
    """A folder outside the project with the files of all pages."""
    folder = tmp_path / "lab"
    folder.mkdir()
    for page in PAGES:
        for name, text in files_of(page).items():
            (folder / name).write_text(text)
    return folder


def run(lab, **changes):
    return run_small(lab.parent, settings=small_config(**(DIGITS | changes)))


def test_the_pages_have_their_examples():
    assert list(files_of(PAGES[0])) == ["my_strategy.py"]
    kinds = ["gate", "expert", "objective", "data", "partition", "transform"]
    assert list(files_of(PAGES[1])) == [f"my_{kind}.py" for kind in kinds]
    assert list(files_of(PAGES[2])) == ["points_gate.py"]


def test_the_strategy_of_the_tutorial_runs_by_reference(lab):
    folder = run(lab, strategy__name=f"{lab}/my_strategy.py:Balanced", strategy__balanced__slack=1.0)
    lines = rounds_of(folder)
    assert [line["round"] for line in lines] == [1, 2, 3]
    for line in lines:
        assert (line["strategy"], line["completed"], line["failures"]) == ("balanced", 5, [])
        assert {len(held) for held in line["assignment"].values()} == {2}
        assert min(line["load"]) >= 1, "with 5 clients, 2 of 3 experts each and no slack, no expert is left out"
    assert set(lines[-1]["evaluate"]["methods"]) >= {"zero_shot", "mixture"}
    state = newest_state(folder)
    assert sorted(state.extras) == ["step/0", "step/1", "step/2"]


def test_its_momentum_is_an_argument_and_does_something(lab):
    name = f"{lab}/my_strategy.py:Balanced"
    still = newest_state(run(lab, strategy__name=name, strategy__balanced__momentum=0.0))
    moved = newest_state(run(lab, strategy__name=name, strategy__balanced__momentum=0.9))
    assert not any((a == b).all() for a, b in zip(still.experts, moved.experts, strict=True))


def test_an_app_of_ones_own_takes_its_arguments(lab, monkeypatch):
    table, *others = code_blocks(PAGES[0], "toml")
    assert not others
    base = (ROOT / "simulations/quickstart/pyproject.toml").read_text()
    (lab / "pyproject.toml").write_text(f"{base}\n{table}")
    given = flatten_dict(tomllib.loads(table)["tool"]["flwr"]["app"]["config"])
    assert {f"strategy.balanced.{name}" for name in ("slack", "momentum")} == set(given)
    _, flat = read_config(lab, ["strategy.name='my_strategy:Balanced' strategy.balanced.momentum=0.25"])
    monkeypatch.syspath_prepend(lab)
    settings = from_flat(flat)
    check_plugins(settings)
    assert methods_of(settings)[0].strategy.momentum == 0.25


@pytest.mark.parametrize(
    "changes",
    [
        {"gate__name": "{lab}/my_gate.py:Prototypes", "data__name": "{lab}/my_data.py:load_waves"},
        {"experts__model": "{lab}/my_expert.py:Softmax", "strategy__name": "{lab}/my_objective.py:Decided"},
        {"clients__partition": "{lab}/my_partition.py:falling", "strategy__name": "{lab}/my_strategy.py:Balanced"},
        {"clients__partition": "domain", "clients__domains": "identity,negative,{lab}/my_transform.py:faded"},
        {"gate__name": "{lab}/points_gate.py:Points"},
    ],
    ids=["gate and data set", "expert and objective", "partition", "transform", "gate of points"],
)
def test_the_other_plug_ins_run_by_reference(lab, changes):
    lines = rounds_of(run(lab, **{key: value.format(lab=lab) for key, value in changes.items()}))
    assert [line["completed"] for line in lines] == [5, 5, 5]
    assert [failure for line in lines for failure in line["failures"]] == []
    assert lines[-1]["evaluate"] is not None


def test_the_gate_of_points_takes_its_argument(lab):
    near, far = (
        newest_state(
            run(lab, gate__name=f"{lab}/points_gate.py:Points", gate__points__reach=reach, train__trainer="stacked")
        )
        for reach in (0.1, 9.0)
    )
    assert not (near.gate == far.gate).all()
