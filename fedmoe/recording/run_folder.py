"""The run folder: where everything that a run leaves behind stands, and how it is written."""

import csv
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from fedmoe.errors import RunFolderError, SettingsError
from fedmoe.recording.atomic import atomic_file, explain_disk, write_atomic
from fedmoe.recording.plain import json_text, to_plain
from fedmoe.settings import Settings, from_flat, to_flat

__all__ = [
    "DEFAULT_OUTPUT",
    "MAIN",
    "MethodFolder",
    "RunFolder",
    "check_same_settings",
    "create_run_folder",
    "folder_name",
    "open_run_folder",
]

MAIN = "main"
"""The name of the main method in `RunFolder.method`."""

DEFAULT_OUTPUT = "~/fedmoe-runs"
"""Where runs go whose `output-dir` is empty."""

MAY_DIFFER = {"resume", "output-dir", "train.workers"}  # what changes no bit of what comes out


@dataclass(frozen=True)
class MethodFolder:
    """Where one method of a run keeps its rounds and checkpoints.

    Attributes:
        path: the run folder itself for the main method, `RUN/baselines/NAME` for a baseline.
    """

    path: Path

    @property
    def rounds(self) -> Path:
        """The file that has a line a round."""
        return self.path / "rounds.jsonl"

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.path / "checkpoints"

    @property
    def states(self) -> Path:
        """The folder of what clients keep between rounds."""
        return self.path / "client-states"


@dataclass(frozen=True)
class RunFolder:
    """One run's folder; every file in it is written whole or not at all.

    Attributes:
        path: absolute path of the folder.
    """

    path: Path

    def method(self, name: str = MAIN) -> MethodFolder:
        """Returns the folder of a method: the run folder itself for `MAIN`, else that baseline's own."""
        return MethodFolder(self.path if name == MAIN else self.path / "baselines" / folder_name(name))

    def baselines(self) -> list[str]:
        """Returns the names of the baselines that have left something here, in alphabetical order."""
        folder = self.path / "baselines"
        return sorted(item.name for item in folder.iterdir() if item.is_dir()) if folder.is_dir() else []

    def write_settings(self, settings: Settings) -> None:
        """Writes `settings.yaml`: every setting, defaults among them, in the nested form of the app's TOML tables."""
        nested: dict[str, Any] = {}
        for key, value in to_flat(settings).items():
            *tables, leaf = key.split(".")
            table = nested
            for name in tables:
                table = table.setdefault(name, {})
            table[leaf] = value
        write_atomic(self.path / "settings.yaml", OmegaConf.to_yaml(OmegaConf.create(nested)).encode())

    def read_settings(self) -> Settings:
        """Returns the settings that this run was started with.

        Raises:
            RunFolderError: `settings.yaml` is missing, damaged, or of a version with other settings.
        """
        path = self.path / "settings.yaml"
        try:
            nested = OmegaConf.to_container(OmegaConf.load(path))
            if not nested:
                raise SettingsError("no setting at all")
            return from_flat(_flatten(cast("dict[str, Any]", nested)))
        except OSError as error:
            raise explain_disk(error, path) from error
        except (SettingsError, OmegaConfBaseException, YAMLError, AttributeError, UnicodeDecodeError) as error:
            reason = " ".join(str(error).split())
            raise RunFolderError(f"'{path}' must hold the settings of a run, got: {reason}") from error

    def write_environment(self, environment: Mapping[str, Any]) -> None:
        """Writes `environment.json`: versions, commit and hardware, data fingerprint and partition hash."""
        self._write_json("environment.json", environment)

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Writes `summary.json`: what came out, in the form that comparisons read."""
        self._write_json("summary.json", summary)

    def write_partition(self, partition: Mapping[str, Any]) -> None:
        """Writes `partition.json`: who holds how many samples of which label, and which clients are anchors.

        In a large population it lists some of the clients (`clients`: their ids), for it is a picture's source.
        """
        self._write_json("partition.json", partition)

    def write_clients(self, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
        """Writes `clients.csv`: a row a client as it comes, empty where it lacks a column; lists are JSON in a cell.

        Raises:
            ValueError: a row has a key that is no column.
        """
        with atomic_file(self.path / "clients.csv") as file:
            text = io.TextIOWrapper(file, encoding="utf-8", newline="")
            writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
            writer.writeheader()
            for row in rows:
                plain = {key: to_plain(value) for key, value in row.items()}
                writer.writerow({k: json.dumps(v) if isinstance(v, (list, dict)) else v for k, v in plain.items()})
            text.detach()  # written out, and left open for `atomic_file`

    def read_json(self, name: str) -> dict[str, Any] | None:
        """Returns the table in the file `name`, or None where the run has not written it.

        Raises:
            RunFolderError: the file holds something else than one JSON table.
        """
        path = self.path / name
        try:
            table = json.loads(path.read_bytes())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise explain_disk(error, path) from error
        except ValueError as error:
            raise RunFolderError(f"'{path}' must hold JSON, got: {error}") from error
        if not isinstance(table, dict):
            raise RunFolderError(f"'{path}' must hold a JSON table, got a {type(table).__name__}")
        return table

    def _write_json(self, name: str, table: Mapping[str, Any]) -> None:
        write_atomic(self.path / name, (json_text(table, indent=2) + "\n").encode())


def create_run_folder(output_dir: Path, simulation: str, strategy: str, seed: int) -> RunFolder:
    """Returns a new, empty run folder `<simulation>-<strategy>-s<seed>-<date>-<time>`; one that exists is never reused.

    Raises:
        RunFolderError: the folder cannot be made.
    """
    moment = datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")
    name = f"{folder_name(simulation) or 'run'}-{folder_name(strategy)}-s{seed}-{moment}"
    parent = output_dir.expanduser().absolute()
    for attempt in count(1):
        path = parent / (name if attempt == 1 else f"{name}-{attempt}")
        try:
            parent.mkdir(parents=True, exist_ok=True)
            path.mkdir()
        except OSError as error:
            if isinstance(error, FileExistsError) and parent.is_dir():
                continue
            raise explain_disk(error, path) from error
        break
    return RunFolder(path)


def open_run_folder(path: Path) -> RunFolder:
    """Returns the run folder at `path`, by its absolute path.

    Raises:
        RunFolderError: there is no run at that path.
    """
    path = path.expanduser().absolute()
    if not (path / "settings.yaml").is_file():
        found = "a folder without settings.yaml" if path.is_dir() else "no such folder"
        raise RunFolderError(f"a run folder must hold settings.yaml, got '{path}': {found}; hint: give the path that "
                             "the run printed at its start")  # fmt: skip
    return RunFolder(path)


def check_same_settings(folder: RunFolder, settings: Settings) -> None:
    """Refuses to go on in a run folder that was started with other settings, but for those of `MAY_DIFFER`.

    Raises:
        RunFolderError: names each setting that differs, with the folder's value and the one that was asked for.
    """
    stored, asked = to_flat(folder.read_settings()), to_flat(settings)
    differing = [
        f"{key} ({stored.get(key, 'not set')!r} there, {asked.get(key, 'not set')!r} now)"
        for key in sorted(stored.keys() | asked.keys())
        if key not in MAY_DIFFER and stored.get(key) != asked.get(key)
    ]
    if differing:
        raise RunFolderError(
            f"a run goes on with the settings it was started with, but '{folder.path}' differs in "
            f"{', '.join(differing)}; hint: leave those as they are in its settings.yaml, or start a new run"
        )


def _flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def folder_name(name: str) -> str:
    """Returns a strategy's or simulation's name as one folder's name: of `"/path/file.py:Class"`, `"Class"`.

    >>> folder_name("/path/to/mine.py:My Method")
    'My-Method'
    """
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name.rsplit(":", 1)[-1]).strip("-.")
