"""Checkpoints: a method's whole state after a round, written whole, with a sum that is checked when it is read."""

import contextlib
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load as parse_arrays
from safetensors.numpy import save as serialise_arrays

from fedmoe.errors import RunFolderError
from fedmoe.recording.atomic import explain_disk, write_atomic

__all__ = [
    "KEPT",
    "Arrays",
    "Checkpoint",
    "CheckpointIndex",
    "load_checkpoint",
    "newest_checkpoint",
    "open_checkpoint",
    "save_checkpoint",
]

Arrays = Mapping[str, NDArray[Any]]

KEPT = 2
"""Checkpoints that stay: should the newest prove damaged, there is one more to go on from."""

NAME = re.compile(r"round-(\d{6,})\.safetensors")
ENTRY = "fedmoe"


@dataclass(frozen=True)
class Checkpoint:
    """A method's state after a round.

    Attributes:
        round_num: the last whole round.
        arrays: the state's arrays by name.
        metadata: the texts that were saved with them.
    """

    round_num: int
    arrays: dict[str, NDArray[Any]]
    metadata: dict[str, str]


@dataclass(frozen=True)
class CheckpointIndex:
    """What stands in a checkpoint, and the way to single arrays of it.

    Attributes:
        path: the file.
        round_num: the last whole round.
        shapes: each array's shape by its name.
    """

    path: Path
    round_num: int
    shapes: Mapping[str, tuple[int, ...]]

    def read(self, name: str) -> NDArray[Any]:
        """Returns one array; no other is read, so the sum over the whole file is not checked.

        Raises:
            KeyError: there is no array of that name.
            RunFolderError: the file is gone or cut short since it was opened.
        """
        if name not in self.shapes:
            raise KeyError(name)
        try:
            with safe_open(self.path, framework="np") as file:
                array: NDArray[Any] = file.get_tensor(name)
        except OSError as error:
            raise explain_disk(error, self.path) from error
        except SafetensorError as error:
            raise _damaged(self.path, f"unreadable ({error})") from error
        return array


def save_checkpoint(folder: Path, round_num: int, arrays: Arrays, metadata: Mapping[str, str]) -> Path:
    """Writes `folder/checkpoints/round-000012.safetensors` and returns its path; all but the newest two go.

    The file is whole or not there. Same arrays and metadata, same bytes: all of the metadata is one JSON entry, for
    safetensors puts several entries in an order that changes from call to call.

    Args:
        folder: a method's folder.
        round_num: the round that has just ended.
        arrays: the state by name, of any dtype that safetensors knows.
        metadata: short texts to keep with them.

    Raises:
        RunFolderError: the disk would not take it; older checkpoints are untouched.
    """
    dense = {name: _dense(arrays[name]) for name in sorted(arrays)}
    texts = dict(sorted(metadata.items()))
    entry = {"round": round_num, "sha256": _digest(round_num, dense, texts), "metadata": texts}
    path = folder / "checkpoints" / f"round-{round_num:06d}.safetensors"
    write_atomic(path, serialise_arrays(dense, metadata={ENTRY: json.dumps(entry)}))
    for old in _by_age(folder)[:-KEPT]:
        # A checkpoint that will not go is a nuisance, not a reason to end the run.
        with contextlib.suppress(OSError):
            old.unlink()
    return path


def load_checkpoint(path: Path) -> Checkpoint:
    """Returns the checkpoint at `path`, its sum checked.

    Raises:
        RunFolderError: the file is missing, cut short or altered; the hint says how to go on.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise explain_disk(error, path) from error
    try:
        entry = _entry(content)
        round_num, texts, expected = entry["round"], entry["metadata"], entry["sha256"]
        arrays = parse_arrays(content)
        intact = _digest(round_num, arrays, texts) == expected
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, f"unreadable ({len(content)} bytes: {error})") from error
    if not intact:
        raise _damaged(path, "content that its sha256 does not fit")
    if path.name != f"round-{round_num:06d}.safetensors":
        raise _damaged(path, f"the checkpoint of round {round_num}")
    return Checkpoint(round_num, arrays, texts)


def open_checkpoint(path: Path) -> CheckpointIndex:
    """Returns what the checkpoint at `path` holds; of the file only the header is read.

    Raises:
        RunFolderError: the file is missing, cut short, or its header is altered.
    """
    try:
        with safe_open(path, framework="np") as file:
            entry = json.loads((file.metadata() or {})[ENTRY])
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - no dict
        return CheckpointIndex(path, int(entry["round"]), shapes)
    except OSError as error:
        raise explain_disk(error, path) from error
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise _damaged(path, f"unreadable ({error})") from error


def newest_checkpoint(folder: Path) -> Path | None:
    """Returns the path of the checkpoint of the latest round in a method's folder, or None where there is none."""
    return next(reversed(_by_age(folder)), None)


def _by_age(folder: Path) -> list[Path]:
    found = (folder / "checkpoints").glob("round-*.safetensors")
    return sorted((path for path in found if _round_of(path) >= 0), key=_round_of)


def _round_of(path: Path) -> int:
    """Returns the round in a checkpoint's name, -1 where the name is not that of a checkpoint."""
    match = NAME.fullmatch(path.name)
    return int(match[1]) if match else -1


def _dense(array: NDArray[Any]) -> NDArray[Any]:
    # The order on disk: no strides, this machine's byte order. `ascontiguousarray` makes a scalar a vector of one.
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("=")).reshape(array.shape)


def _entry(content: bytes) -> dict[str, Any]:
    # safetensors.numpy hands the arrays back without the metadata: read it from the header, an 8-byte length first.
    length = int.from_bytes(content[:8], "little")
    entry = json.loads(json.loads(content[8 : 8 + length])["__metadata__"][ENTRY])
    if not isinstance(entry, dict):
        raise ValueError("no entry of fedmoe in its header")
    return entry


def _digest(round_num: int, arrays: Arrays, texts: Mapping[str, str]) -> str:
    shapes = [[name, str(arrays[name].dtype), list(arrays[name].shape)] for name in sorted(arrays)]
    digest = hashlib.sha256(json.dumps([round_num, dict(sorted(texts.items())), shapes]).encode())
    for name in sorted(arrays):
        digest.update(np.ascontiguousarray(arrays[name]).data if arrays[name].size else b"")
    return digest.hexdigest()


def _damaged(path: Path, got: str) -> RunFolderError:
    older = [number for number in map(_round_of, _by_age(path.parent.parent)) if number < _round_of(path)]
    hint = f"remove it to go on from round {older[-1]}" if older else "there is no older checkpoint: start a new run"
    return RunFolderError(f"a checkpoint must be as it was written, got '{path}': {got}; hint: {hint}")
