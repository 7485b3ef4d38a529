"""Which runs a person means by some folders: the run folders themselves, and those that stand below."""

from collections.abc import Sequence
from pathlib import Path

from fedmoe.errors import RunFolderError

__all__ = ["find_runs"]

BEGUN = "run-config.toml"  # what a sweep writes first into a run's place
DEPTH = 4  # folders below: a map has regimes, in them parts, in them runs


def find_runs(paths: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Returns the finished runs and the unfinished ones, absolute, each once, in the order given.

    A run folder stands for itself, another folder for all runs below it. Files are passed over, for a shell's `*` in a
    sweep's folder finds logs beside runs. A sweep's place whose run has not written anything yet is unfinished.

    Args:
        paths: folders and files.

    Raises:
        RunFolderError: a path does not exist, a folder has no run in or below it, or no run is finished.
    """
    found: dict[Path, None] = {}
    for path in (given.expanduser().absolute() for given in paths):
        if path.is_file():
            continue
        below = _runs_below(path) or [path] * (path / BEGUN).is_file()
        if not below:
            raise _nothing_found(path)
        found |= dict.fromkeys(below)
    finished = [run for run in found if (run / "summary.json").is_file()]
    unfinished = [run for run in found if run not in finished]
    if not finished:
        named = ", ".join(f"'{run}'" for run in unfinished) or "files alone"
        raise RunFolderError(
            f"a run must be finished to be compared, got {named}, without summary.json; hint: fedmoe run SIMULATION "
            "--resume RUN goes on with one, and a sweep's command with all of the sweep"
        )
    return finished, unfinished


def _runs_below(folder: Path) -> list[Path]:
    if (folder / "settings.yaml").is_file():
        return [folder]
    below = ("*/" * level + "settings.yaml" for level in range(1, DEPTH + 1))
    return sorted(file.parent for pattern in below for file in folder.glob(pattern))


def _nothing_found(path: Path) -> RunFolderError:
    found = "a folder without a run in or below it" if path.is_dir() else "no such folder"
    return RunFolderError(
        f"what is compared must be a run folder, or a folder with some at most {DEPTH} levels down, got '{path}': "
        f"{found}; hint: the path that `fedmoe run` printed, or a sweep's --output"
    )
