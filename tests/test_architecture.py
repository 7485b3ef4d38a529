"""The floors of the house: an import never goes up, there is no circle, each foreign library has its door."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = {
    **dict.fromkeys(("strategies", "simulations", "benchmarks"), 5),
    **dict.fromkeys(("fedmoe.flower", "fedmoe.personal", "fedmoe.sweep", "fedmoe.cli", "fedmoe.__main__"), 4),
    **dict.fromkeys(("fedmoe.training", "fedmoe.evaluation", "fedmoe.recording"), 3),
    **dict.fromkeys(("fedmoe.moe", "fedmoe.federation", "fedmoe.data"), 2),
    **dict.fromkeys(("fedmoe.errors", "fedmoe.seeding", "fedmoe.settings", "fedmoe.references"), 1),
    "fedmoe": 1,
}
DOORS: dict[str, tuple[str, ...]] = {
    "flwr": ("fedmoe.flower", "fedmoe.cli", "strategies", "simulations", "benchmarks"),
    "flwr_datasets": ("fedmoe.data",),
    "omegaconf": ("fedmoe.settings", "fedmoe.recording"),  # recording: `settings.yaml` in the form of the settings
    "ray": (),
}
SAYING_NOTHING = {"util", "utils", "common", "helper", "helpers", "misc", "base", "core", "manager", "managers"}
PLUGINS = (
    "strategies",
    *("fedmoe.data.datasets", "fedmoe.data.partitions", "fedmoe.data.transforms"),
    *("fedmoe.moe.gates", "fedmoe.moe.experts", "fedmoe.training.objectives"),
)
Modules = dict[str, ast.Module]


def modules_below(root: Path) -> Modules:
    """Returns every Python module of the house by its dotted name."""
    files = [
        file for top in ("fedmoe", "strategies", "simulations", "benchmarks") for file in (root / top).rglob("*.py")
    ]
    names = {file: ".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__") for file in files}
    return {name: ast.parse(file.read_text()) for file, name in sorted(names.items())}


def imports(module: str, modules: Modules) -> Iterator[str]:
    """Yields the dotted names that a module imports, wherever in it; of `from package import x`, the module `x`."""
    for node in ast.walk(modules[module]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = node.module if not node.level else f"a relative import in {module}"
            yield from (name if (name := f"{origin}.{a.name}") in modules else str(origin) for a in node.names)


def below(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def wing(module: str) -> str:
    """Returns the room that a module belongs to: the longest name in the table of floors that it stands below."""
    return max((room for room in FLOORS if below(module, room)), key=len, default="")


def breaches(root: Path) -> list[str]:
    """Returns all that is against the rules of the house, a line each."""
    modules = modules_below(root)
    return [line for rule in (upward, circles, doors, idle_names, exports) for line in rule(modules)]


def upward(modules: Modules) -> Iterator[str]:
    for module in modules:
        if wing(module) in ("", "fedmoe") and module != "fedmoe":
            yield f"{module} stands on no floor"
        for name in imports(module, modules):
            if wing(name) and FLOORS[wing(name)] > FLOORS[wing(module) or "strategies"]:
                yield f"{module} imports {name}, from above"
            if name.startswith("a relative import"):
                yield f"{module} imports relatively"


def circles(modules: Modules) -> Iterator[str]:
    by_module = {module: {name for name in imports(module, modules) if name in modules} for module in modules}
    by_wing: dict[str, set[str]] = {}
    for module, names in by_module.items():
        by_wing.setdefault(wing(module), set()).update({wing(name) for name in names} - {wing(module)})
    for graph in (by_module, by_wing):
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as error:
            yield f"a circle: {' -> '.join(error.args[1])}"


def doors(modules: Modules) -> Iterator[str]:
    for module in modules:
        for name in imports(module, modules):
            if not any(below(module, room) for room in DOORS.get(name.split(".")[0], (module,))):
                yield f"{module} imports {name}, which is not its business"


def idle_names(modules: Modules) -> Iterator[str]:
    yield from (f"{module}: a name that says nothing" for module in modules if module.split(".")[-1] in SAYING_NOTHING)


def exports(modules: Modules) -> Iterator[str]:
    for module, tree in modules.items():
        if not below(module, "fedmoe") and not below(module, "strategies"):
            continue
        named = {name for node in tree.body for name in _named(node)}
        public = {name for name in named if not name.startswith("_") and not name.isupper()}
        told = _told(tree)
        if public and not told:
            yield f"{module} has public names and no __all__: {', '.join(sorted(public))}"
        lacking = set(told) - named - {name for node in tree.body for name in _imported(node)}
        yield from (f"{module}.__all__ names {name}, which it lacks" for name in sorted(lacking))
        if module.rpartition(".")[0] in PLUGINS and len(told) != 1:
            yield f"{module} is a plug-in, and its __all__ has {len(told)} names, not one"


def _named(node: ast.stmt) -> Iterator[str]:
    """Yields the names that a statement at a module's top gives to something."""
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        yield node.name
    elif isinstance(node, (ast.Assign, ast.AnnAssign)):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        yield from (part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name))


def _imported(node: ast.stmt) -> Iterator[str]:
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        yield from (alias.asname or alias.name for alias in node.names)


def _told(tree: ast.Module) -> list[str]:
    found = [node.value for node in tree.body if isinstance(node, ast.Assign) and "__all__" in _named(node)]
    return list(ast.literal_eval(found[0])) if found else []


def test_the_house_stands_on_its_floors():
    assert len(modules_below(ROOT)) > 100
    assert breaches(ROOT) == []


GOOD = {
    "fedmoe/__init__.py": '__version__ = "1"',
    "fedmoe/errors.py": '__all__ = ["Oops"]\nclass Oops(Exception): ...',
    "fedmoe/moe/__init__.py": "",
    "fedmoe/moe/gate.py": '__all__ = ["Gate"]\nfrom fedmoe.errors import Oops\nimport torch\nclass Gate: ...',
    "fedmoe/moe/gates/mlp.py": '__all__ = ["Mlp"]\nfrom fedmoe.moe.gate import Gate\nclass Mlp(Gate): ...',
    "fedmoe/data/cards.py": '__all__ = ["deal"]\nfrom flwr_datasets.partitioner import IidPartitioner\ndef deal(): ...',
    "fedmoe/flower/door.py": '__all__ = ["app"]\nfrom flwr.app import Context\napp = Context',
    "strategies/idea.py": '__all__ = ["Idea"]\nfrom flwr.app import Context\nimport fedmoe.moe.gate\nclass Idea: ...',
}
BAD = {
    "an import from above": ("fedmoe/moe/gate.py", "import fedmoe.flower.door", "from above"),
    "an import from above inside a function": (
        "fedmoe/moe/gate.py",
        "def _f():\n    from fedmoe.training import loop",
        "from above",
    ),
    "the library imports a strategy": ("fedmoe/flower/door.py", "import strategies.idea", "from above"),
    "the library imports a simulation": ("fedmoe/cli.py", "from simulations.quickstart import x", "from above"),
    "the library imports a benchmark": ("fedmoe/errors.py", "import benchmarks", "from above"),
    "a room that is on no floor": ("fedmoe/attic/trunk.py", "", "stands on no floor"),
    "a relative import": ("fedmoe/moe/gates/mlp.py", "from ..gate import Gate", "relatively"),
    "a circle of modules": ("fedmoe/moe/gate.py", "from fedmoe.moe.gates.mlp import Mlp", "a circle: fedmoe.moe.gate"),
    "a circle by way of a package": ("fedmoe/moe/gate.py", "from fedmoe.moe.gates import mlp", "a circle"),
    "a circle of wings": (
        "fedmoe/data/cards.py",
        "import fedmoe.moe.gates.mlp\n",
        "a circle: fedmoe.data -> fedmoe.moe -> fedmoe.data",
    ),
    "flwr by another door": ("fedmoe/data/cards.py", "import flwr", "not its business"),
    "a part of flwr by another door": ("fedmoe/moe/gate.py", "from flwr.app import Context", "not its business"),
    "flwr_datasets by another door": ("fedmoe/flower/door.py", "import flwr_datasets", "not its business"),
    "omegaconf by another door": ("fedmoe/moe/gate.py", "from omegaconf import OmegaConf", "not its business"),
    "ray": ("fedmoe/flower/door.py", "import ray", "not its business"),
    "ray in a strategy": ("strategies/idea.py", "from ray.util import x", "not its business"),
    "a file that says nothing": ("fedmoe/moe/utils.py", "", "says nothing"),
    "a package that says nothing": ("fedmoe/data/common/__init__.py", "", "says nothing"),
    "a public function that is not told": ("fedmoe/data/holes.py", "def dig(): ...", "no __all__: dig"),
    "a public variable that is not told": ("fedmoe/data/holes.py", "hole: int = 3", "no __all__: hole"),
    "a name that is not there among two": (
        "fedmoe/data/holes.py",
        '__all__ = ["DEEP", "dig"]\nDEEP, WIDE = 1, 2',
        "names dig, which it lacks",
    ),
    "a plug-in with two names": ("fedmoe/moe/gates/two.py", '__all__ = ["A", "B"]\nA = B = 1', "has 2 names, not one"),
    "a plug-in with none": ("strategies/mute.py", "_x = 1", "has 0 names, not one"),
}


def build(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")


def test_a_house_that_keeps_the_rules_has_no_breach(tmp_path):
    build(tmp_path, GOOD)
    assert breaches(tmp_path) == []


@pytest.mark.parametrize("case", BAD)
def test_each_breach_is_seen(tmp_path, case):
    place, line, message = BAD[case]
    back = {"fedmoe/moe/late.py": "import fedmoe.data.cards"} if "wings" in case else {}
    build(tmp_path, GOOD | back)
    build(tmp_path, {place: f"{GOOD.get(place, '')}\n{line}"})
    found = breaches(tmp_path)
    assert found
    assert all(message in breach for breach in found), found
