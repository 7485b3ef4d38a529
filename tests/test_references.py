import hashlib
import importlib
import sys
from pathlib import Path

import pytest

from fedmoe.errors import ReferenceError_, SettingsError
from fedmoe.moe.gates.mlp import MLPGate
from fedmoe.references import file_hashes, known_names, load_plugin

PACKAGES = {
    "gate": "fedmoe.moe.gates",
    "expert": "fedmoe.moe.experts",
    "objective": "fedmoe.training.objectives",
    "data set": "fedmoe.data.datasets",
    "partition": "fedmoe.data.partitions",
    "transform": "fedmoe.data.transforms",
    "strategy": "strategies",
}
ALL = [(kind, package, name) for kind, package in PACKAGES.items() for name in known_names(package)]


@pytest.mark.parametrize(("kind", "package", "name"), ALL)
def test_every_file_is_a_plugin_under_its_own_name(kind: str, package: str, name: str) -> None:
    module = importlib.import_module(f"{package}.{name}")
    assert len(module.__all__) == 1
    plugin = load_plugin(kind, package, name)
    assert plugin is getattr(module, module.__all__[0])
    assert load_plugin(kind, package, name.replace("_", "-")) is plugin
    assert load_plugin(kind, package, f"{package}.{name}:{module.__all__[0]}") is plugin


@pytest.mark.parametrize(("kind", "package"), PACKAGES.items())
def test_an_unknown_name_is_refused_with_the_known_ones(kind: str, package: str) -> None:
    names = known_names(package)
    with pytest.raises(ReferenceError_) as told:
        load_plugin(kind, package, names[0] + "x")
    assert f"unknown {kind} '{names[0]}x'" in str(told.value)
    assert f"did you mean '{names[0]}'?" in str(told.value)
    assert all(name in str(told.value) for name in names)
    assert isinstance(told.value, SettingsError)


@pytest.mark.parametrize(
    ("reference", "rule"),
    [
        ("fedmoe.moe.gates.mlp:MLPGat", "did you mean 'MLPGate'"),
        ("no_such_module_at_all:Thing", "no module named 'no_such_module_at_all'"),
        ("fedmoe.moe.no_such_part:Thing", "no module named 'fedmoe.moe.no_such_part'"),
        ("relative/file.py:Thing", "must be the absolute path of a Python file that exists"),
        ("/no/such/file.py:Thing", "must be the absolute path of a Python file that exists"),
        (f"{Path(__file__).with_name('test_reference.py')}:Thing", r"did you mean 'test_references\.py'"),
    ],
)
def test_a_reference_that_leads_nowhere_says_what_is_wrong(reference: str, rule: str) -> None:
    with pytest.raises(ReferenceError_, match=rule):
        load_plugin("gate", "fedmoe.moe.gates", reference)


def test_a_file_that_names_nothing_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("fedmoe.moe.gates.mlp.__all__")
    with pytest.raises(ReferenceError_, match=r"must hold one name, got \[\]; hint: __all__ = \['YourClass'\]"):
        load_plugin("gate", "fedmoe.moe.gates", "mlp")


def test_an_attribute_of_a_module_is_found() -> None:
    assert load_plugin("gate", "fedmoe.moe.gates", "fedmoe.moe.gates.mlp:MLPGate") is MLPGate


def test_an_attribute_of_a_file_is_found_and_the_file_runs_once(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("class Mine:\n    pass\n")
    first = load_plugin("gate", "fedmoe.moe.gates", f"{file}:Mine")
    assert first.__name__ == "Mine"
    assert load_plugin("gate", "fedmoe.moe.gates", f"{file}:Mine") is first


def test_two_files_of_one_name_are_two_modules(tmp_path: Path) -> None:
    for folder, value in (("a", 1), ("b", 2)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.py").write_text(f"VALUE = {value}\n")
    assert [load_plugin("gate", "fedmoe.moe.gates", f"{tmp_path}/{f}/mine.py:VALUE") for f in "ab"] == [1, 2]


def test_a_file_that_fails_fails_as_itself_each_time(tmp_path: Path) -> None:
    file = tmp_path / "broken.py"
    file.write_text("raise ArithmeticError('mine')\n")
    before = set(sys.modules)
    for _ in range(2):
        with pytest.raises(ArithmeticError, match="mine"):
            load_plugin("gate", "fedmoe.moe.gates", f"{file}:Mine")
    assert set(sys.modules) == before


def test_a_module_that_lacks_a_dependency_is_not_called_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "needs_more.py").write_text("import no_such_dependency\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="no_such_dependency"):
        load_plugin("gate", "fedmoe.moe.gates", "needs_more:Thing")


def test_of_the_settings_those_that_name_a_file_or_a_module_are_hashed_by_what_stands_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "mine.py"
    file.write_text("class Mine: ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    by_path, by_name = f"{file}:Mine", "mine:Mine"
    others = ["fedjets", "s3:bucket", "no.such.package:Class", "/nowhere/mine.py:Mine", "a:b c", 3, "sys:path"]
    found = file_hashes([f"fedavg, {by_path}", by_name, *others])
    assert found == dict.fromkeys((by_path, by_name), hashlib.sha256(b"class Mine: ...\n").hexdigest())
    file.write_text("class Mine: pass\n")
    assert file_hashes([by_path])[by_path] != found[by_path]
