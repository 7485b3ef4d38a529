"""Plug-ins by name: a short name, `"package.module:Attribute"` or `"/path/file.py:Attribute"` -> the object.

A short name is a file's name: `"mlp"` in the package `fedmoe.moe.gates` is the one public name (`__all__`) of
`fedmoe/moe/gates/mlp.py`. So a new built-in plug-in is one new file, and no list of names has to be edited.
"""

import hashlib
import importlib
import importlib.util
import inspect
import pkgutil
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from fedmoe.errors import ReferenceError_, nearest_hint

__all__ = ["file_hashes", "known_names", "load_plugin", "short_name", "source_of"]


def known_names(package: str) -> list[str]:
    """Returns the short names that `package` offers, sorted: its modules' names, private ones left out.

    >>> "mlp" in known_names("fedmoe.moe.gates")
    True
    """
    module = importlib.import_module(package)
    return sorted(info.name for info in pkgutil.iter_modules(module.__path__) if not info.name.startswith("_"))


def short_name(reference: str, package: str) -> str:
    """Returns how a plug-in is called in the records and in the settings' tables of arguments.

    That is its short name, or the class's name of a reference in lower case; where a built-in one is called so, the
    reference's package or file is put before it.

    >>> short_name("my_module:MyGate", "fedmoe.moe.gates"), short_name("my_module:MLP", "fedmoe.moe.gates")
    ('mygate', 'my_module_mlp')
    >>> short_name("top-k", "fedmoe.moe.gates"), short_name("/path/to/my-lab.py:MLP", "fedmoe.moe.gates")
    ('top_k', 'my_lab_mlp')
    """
    where, _, attribute = reference.rpartition(":")
    name = attribute.replace("-", "_").lower()
    if where and name in known_names(package):
        origin = Path(where).stem if where.endswith(".py") else where.split(".")[0]
        return re.sub(r"\W", "_", f"{origin}_{name}")
    return name


def load_plugin(kind: str, package: str, reference: str) -> Any:
    """Returns what `reference` names.

    Args:
        kind: what is looked for, in one word, for error messages ("gate", "strategy").
        package: the package whose files are the built-in ones.
        reference: a short name (`-` and `_` are the same), `"module:Attribute"` or `"/path/file.py:Attribute"`.

    Raises:
        ReferenceError_: nothing stands there; the message lists the known names.
    """
    if ":" in reference:
        where, _, attribute = reference.rpartition(":")
        module = _module_from_file(kind, Path(where)) if where.endswith(".py") else _module(kind, where)
        if not hasattr(module, attribute):
            public = [
                name for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__
            ]
            hint = nearest_hint(attribute, public)
            raise ReferenceError_(f"{kind} '{reference}': {where} has no '{attribute}'; {hint}")
        return getattr(module, attribute)
    name = reference.replace("-", "_")
    if name not in known_names(package):
        hint = nearest_hint(name, known_names(package))
        raise ReferenceError_(
            f"unknown {kind} '{reference}'; {hint}; or give 'package.module:Attribute' or '/path/file.py:Attribute'"
        )
    module = importlib.import_module(f"{package}.{name}")
    public = list(getattr(module, "__all__", ()))
    if len(public) != 1:
        raise ReferenceError_(
            f"{kind} '{name}': __all__ of {module.__name__} must hold one name, got {public}; hint: "
            "__all__ = ['YourClass']"
        )
    return getattr(module, public[0])


def source_of(plugin: Any) -> bytes:
    """Returns the source of the file that defines the plug-in and, for a class, of its bases' files outside torch.

    It belongs into the key of whatever is cached of the plug-in's work: one that its author has edited must not find
    what its old self has left.
    """
    foreign = ("builtins", "torch", "abc")
    parts = inspect.getmro(plugin) if isinstance(plugin, type) else (plugin,)
    files = sorted({inspect.getfile(part) for part in parts if part.__module__.split(".")[0] not in foreign})
    return b"".join(Path(file).read_bytes() for file in files)


def file_hashes(values: Iterable[object]) -> dict[str, str]:
    """Returns the SHA-256, in hex, of the file that each reference among a run's settings names.

    So a run can tell later by which version of a person's own files it was made. Short names are left out, for they
    are fedmoe's, whose commit is known; what a file imports is not looked at.

    Args:
        values: of settings; what is no reference to a file or module that exists is passed over.
    """
    parts = (part.strip() for value in values if isinstance(value, str) for part in value.split(","))
    files = {part: file for part in parts if (file := _file_of(part)) is not None}
    return {reference: hashlib.sha256(file.read_bytes()).hexdigest() for reference, file in files.items()}


def _file_of(reference: str) -> Path | None:
    where, _, attribute = reference.rpartition(":")
    if not where or not attribute.isidentifier():
        return None
    if where.endswith(".py"):
        file = Path(where).expanduser()
        return file if file.is_file() else None
    if not all(word.isidentifier() for word in where.split(".")):
        return None
    loaded = getattr(sys.modules.get(where), "__file__", None)
    if loaded is not None:
        return Path(loaded)
    try:
        spec = importlib.util.find_spec(where)
    except (ModuleNotFoundError, ValueError):  # of a package that it would be in; of a script, which has none
        return None
    return Path(spec.origin) if spec is not None and spec.has_location and spec.origin else None


def _module(kind: str, name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
            raise ReferenceError_(
                f"{kind}: no module named '{name}'; hint: is it installed, or give '/path/to/file.py:Attribute'"
            ) from error
        raise


def _module_from_file(kind: str, path: Path) -> ModuleType:
    file = path.expanduser()
    if not file.is_absolute() or not file.is_file():
        beside = sorted(other.name for other in file.parent.glob("*.py")) if file.is_absolute() else []
        hint = f"; {nearest_hint(file.name, beside)}" if beside else ""
        raise ReferenceError_(f"{kind}: '{path}' must be the absolute path of a Python file that exists{hint}")
    name = f"fedmoe_plugin_{file.stem}_{hashlib.sha256(str(file).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ReferenceError_(f"{kind}: '{path}' cannot be loaded as a Python module")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
