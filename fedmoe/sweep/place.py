"""Where a sweep's runs stand: a folder each, in which a run is begun, gone on with, or found to be done."""

import hashlib
import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedmoe.errors import RunFolderError
from fedmoe.recording.run_folder import DEFAULT_OUTPUT, folder_name, open_run_folder
from fedmoe.references import file_hashes
from fedmoe.settings import from_flat, to_flat
from fedmoe.sweep.grid import Point

__all__ = ["Place", "folder_of", "sweep_folder"]

FREE = {"output-dir", "resume", "train.workers"}  # what changes no figure


@dataclass(frozen=True)
class Place:
    """One run's folder.

    Attributes:
        point: what the run sets.
        config: all of its flat settings.
        path: the folder; what the run writes stands in a folder of its own below.
    """

    point: Point
    config: Mapping[str, Any]
    path: Path

    @property
    def log(self) -> Path:
        """The file with all that the run has said."""
        return self.path / "log.txt"

    def newest(self) -> Path | None:
        """Returns the run folder that was begun last, if any.

        Raises:
            RunFolderError: a run of other settings stands there.
        """
        begun = sorted(file.parent for file in self.path.glob("*/settings.yaml"))
        if not begun:
            return None
        found, wanted = (
            {key: value for key, value in to_flat(settings).items() if key not in FREE}
            for settings in (open_run_folder(begun[-1]).read_settings(), from_flat(dict(self.config)))
        )
        if other := next((key for key in sorted({*found, *wanted}) if found.get(key) != wanted.get(key)), None):
            raise RunFolderError(
                f"'{begun[-1]}' must be a run of this sweep, but its {other} is {found.get(other)!r}, here "
                f"{wanted.get(other)!r}; hint: another --output"
            )
        return begun[-1]

    def check(self) -> None:
        """Refuses what stands there if it is no run of these settings and of these files.

        Raises:
            RunFolderError: it is another run, or a file that a setting names has changed since it was begun.
        """
        newest = self.newest()
        if newest is None:
            return
        now, begun = file_hashes(self.config.values()), open_run_folder(newest).read_json("environment.json") or {}
        for reference, digest in begun.get("sources", {}).items():
            if now.get(reference) != digest:
                raise RunFolderError(
                    f"'{newest}' was begun with another version of {reference} than the file there now; hint: another "
                    "--output, so that no table mixes the two"
                )

    def done(self) -> Path | None:
        """Returns the run folder of a finished run, if there is one."""
        newest = self.newest()
        return newest if newest is not None and (newest / "summary.json").is_file() else None


def folder_of(output: Path, point: Point) -> Path:
    """Returns a run's folder in a sweep's: one that is there already, if the grid's keys came in another order.

    Args:
        output: the sweep's.
        point: the run's.
    """
    named = output / point.name
    words = [Point((setting,)).name for setting in point.settings]
    parts = sorted(point.name.split(","))
    there = (folder for folder in sorted(output.glob("*/")) if sorted(folder.name.split(",")) == parts)
    ours = (folder for folder in there if folder.name in map(",".join, itertools.permutations(words)))
    return named if named.is_dir() else next(ours, named)


def sweep_folder(simulation: str, plain: Mapping[str, Any], config: Mapping[str, Any]) -> Path:
    """Returns the folder of a sweep that names none: `sweeps/NAME` where runs go, the same one for the same settings.

    A sweep of other settings for all runs gets one of its own, `sweeps/NAME-` and eight digits of their hash.

    Args:
        simulation: its name.
        plain: the simulation's own flat settings.
        config: those of all runs of the sweep; `output-dir` says where runs go.
    """
    parent = Path(str(config.get("output-dir") or DEFAULT_OUTPUT)).expanduser().absolute()
    changed = {key: value for key, value in config.items() if key not in FREE and plain.get(key) != value}
    text = json.dumps(changed, sort_keys=True)
    digest = f"-{hashlib.sha256(text.encode()).hexdigest()[:8]}" if changed else ""
    return parent / "sweeps" / f"{folder_name(simulation) or 'run'}{digest}"
