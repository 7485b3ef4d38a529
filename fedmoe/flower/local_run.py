"""`fedmoe run`: a simulation's app in this process, on the in-process grid."""

import contextlib
import importlib
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from flwr.app import Context, RecordDict
from flwr.common.config import flatten_dict, get_project_config, parse_config_args

from fedmoe.errors import SettingsError, nearest_hint
from fedmoe.flower.devices import visible_gpus
from fedmoe.flower.local_grid import LocalGrid
from fedmoe.moe.construction import EXPERTS, GATES
from fedmoe.recording.run_folder import open_run_folder
from fedmoe.references import known_names, short_name
from fedmoe.settings import from_flat, to_flat

__all__ = ["check_keys", "read_config", "run_locally"]


def run_locally(simulation: Path, overrides: Sequence[str], resume: Path | None, num_nodes: int = 0) -> None:
    """Runs the simulation's ServerApp against in-process nodes, those on different GPUs at the same time.

    Args:
        simulation: folder of a Flower app.
        overrides: as `flwr run --run-config` takes them.
        resume: run folder to go on with.
        num_nodes: SuperNodes; 0: one a GPU, and two at the least, as `flwr run` has.

    Raises:
        SettingsError: the folder is no Flower app, or an override does not fit.
    """
    project, config = read_config(simulation, overrides)
    if resume is not None:
        asked = {key: config[key] for key in config if key in given_keys(overrides)}
        config = to_flat(open_run_folder(resume.absolute()).read_settings()) | asked
        config["resume"] = str(resume.absolute())
    if config.get("output-dir"):
        config["output-dir"] = str(Path(str(config["output-dir"])).expanduser().absolute())
    components = project["tool"]["flwr"]["app"]["components"]
    gpus = visible_gpus(from_flat(config).train.device)
    with _importable(simulation):
        server_app, client_app = _load(components["serverapp"]), _load(components["clientapp"])
        grid = LocalGrid(client_app, num_nodes or max(2, gpus), config, at_once=max(1, gpus))
        server_app(grid, Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config=config))


def read_config(simulation: Path, overrides: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the app's pyproject and its flat run config with the overrides, read as `flwr run` reads them.

    Raises:
        SettingsError: no app stands there, or an override's key is neither in the app's config nor a plug-in's own.
    """
    if not (simulation / "pyproject.toml").is_file():
        raise SettingsError(
            f"a simulation is a folder with a pyproject.toml, got '{simulation}'; hint: simulations/quickstart"
        )
    project = get_project_config(simulation)
    base = flatten_dict(project["tool"]["flwr"]["app"].get("config", {}))
    for line in overrides:
        # Flower's reader skips what it does not understand, such as the "train.epochs= 3" of a space too many
        rest = re.sub(r"\S+?=('[^']*'|\"[^\"]*\"|\S+)", "", line).strip()
        if rest and not line.endswith(".toml"):
            raise SettingsError(f"--run-config must be \"key=value ...\" or one TOML file, got '{rest}'")
    try:
        flat = _given(overrides)
    except Exception as error:  # Flower raises typer's, tomli's and its own errors here
        bare = re.search(r"(?:^|\s)([\w.-]+)=(?!true\b|false\b)([A-Za-z/][^\s'\"]*)(?=\s|$)", " ".join(overrides))
        if bare:
            key, text = bare.groups()
            raise SettingsError(f"--run-config takes text in quotes, got {key}={text}; hint: {key}='{text}'") from error
        raise SettingsError(f"--run-config cannot be read: {error}") from error
    check_keys(flat, base)
    return project, dict(base) | flat


def check_keys(flat: Mapping[str, Any], base: Mapping[str, Any]) -> None:
    """Refuses a setting that the app's table does not have, unless a plug-in itself says that it takes it.

    That is an argument of a built-in gate or expert, or of one that the settings name, or of any strategy: whose those
    are, and that none is misspelt, `methods_of` knows.

    Raises:
        SettingsError: names the nearest right key.
    """
    given = {**base, **flat}
    known = {}
    for kind, package, named in (
        ("gate", GATES, ("gate.name",)),
        ("experts", EXPERTS, ("experts.model", "common-expert.model")),
    ):
        references = [str(given[setting]) for setting in named if given.get(setting)]
        known[kind] = {*known_names(package), *(short_name(reference, package) for reference in references)}
    for key in flat:
        kind, _, rest = key.partition(".")
        table, _, argument = rest.partition(".")
        takes = kind == "strategy" or table.replace("-", "_") in known.get(kind, ())
        if key not in base and not (takes and table and argument and "." not in argument):
            raise SettingsError(f"unknown setting '{key}'; {nearest_hint(key, base).split(' known:')[0]}")


def given_keys(overrides: Sequence[str]) -> set[str]:
    """Returns the keys that the overrides set."""
    return set(_given(overrides))


def _given(overrides: Sequence[str]) -> dict[str, Any]:
    if len(overrides) > 1 and any(line.endswith(".toml") for line in overrides):
        raise SettingsError(f"a TOML file must stand alone, got it among {len(overrides)} of them")
    flat: dict[str, Any] = {}
    for line in overrides:  # one by one: together, Flower's reader forgets of a table what an earlier one has set
        flat |= flatten_dict(parse_config_args([line]))
    return flat


def _load(reference: str) -> Any:
    module, _, attribute = reference.partition(":")
    return getattr(importlib.import_module(module), attribute)


@contextlib.contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Puts the simulation's folder on the import path, as `flwr run` does."""
    sys.path.insert(0, str(folder.absolute()))
    try:
        yield
    finally:
        sys.path.remove(str(folder.absolute()))
