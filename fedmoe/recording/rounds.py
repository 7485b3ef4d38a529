"""`rounds.jsonl`: one JSON line a round, the interface to all that plots, compares or resumes."""

import contextlib
import json
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from fedmoe.errors import RunFolderError
from fedmoe.recording.atomic import explain_disk
from fedmoe.recording.plain import json_text

__all__ = ["append_round", "iter_rounds", "read_rounds", "truncate_rounds"]


def append_round(folder: Path, line: Mapping[str, Any]) -> None:
    """Adds one round's line to `folder/rounds.jsonl` and waits until it is on the disk.

    Args:
        folder: a method's folder.
        line: what happened in the round; has the key `round`.

    Raises:
        RunFolderError: the disk would not take it (the file is as before), or the file ends in a torn line.
    """
    path = folder / "rounds.jsonl"
    content = (json_text(line) + "\n").encode()
    try:
        with path.open("a+b") as file:
            size = file.seek(0, os.SEEK_END)
            if size and os.pread(file.fileno(), 1, size - 1) != b"\n":
                raise _torn(path)
            try:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                # Half a line would make the next reader stumble: cut back to where the file was whole.
                with contextlib.suppress(OSError):
                    os.ftruncate(file.fileno(), size)
                raise
    except OSError as error:
        raise explain_disk(error, path) from error


def iter_rounds(path: Path, torn_ok: bool = False) -> Iterator[dict[str, Any]]:
    """Yields the rounds in the file at `path`, oldest first, one in memory at a time; none where there is no file.

    Args:
        path: a `rounds.jsonl`.
        torn_ok: leave out a last line that a killed run did not finish, in place of refusing the file.

    Raises:
        RunFolderError: a line is not a round's record, or rounds are out of order.
    """
    return (line for line, _ in _lines(path, torn_ok))


def read_rounds(path: Path, torn_ok: bool = False, without: Collection[str] = ()) -> list[dict[str, Any]]:
    """Returns the rounds in the file at `path` as `iter_rounds` yields them, but for the keys in `without`."""
    return [{key: line[key] for key in line if key not in without} for line in iter_rounds(path, torn_ok)]


def truncate_rounds(folder: Path, last_round: int) -> None:
    """Cuts `folder/rounds.jsonl` back to rounds 1 to `last_round`; a torn last line goes too.

    A run writes a round's line before its checkpoint, so the round of any checkpoint has its line.

    Raises:
        RunFolderError: a round up to `last_round` is missing (the file is as before), or the file cannot be written.
    """
    path, wanted, size = folder / "rounds.jsonl", 1, 0
    for line, end in _lines(path, torn_ok=True):
        if line["round"] > last_round:
            break
        wanted, size = wanted + (line["round"] == wanted), end
    if wanted <= last_round:
        raise RunFolderError(
            f"'{path}' must have a line for each of the {last_round} rounds that the checkpoint stands on, "
            f"got none for round {wanted}; hint: start a new run"
        )
    try:
        with path.open("r+b") as file:
            file.truncate(size)
            os.fsync(file.fileno())
    except FileNotFoundError:
        return
    except OSError as error:
        raise explain_disk(error, path) from error


def _lines(path: Path, torn_ok: bool) -> Iterator[tuple[dict[str, Any], int]]:
    """Yields each round with the place in the file where its line ends."""
    latest, end = None, 0
    try:
        with path.open("rb") as file:
            for number, text in enumerate(file, start=1):
                if not text.endswith(b"\n"):
                    if torn_ok:
                        return
                    raise _torn(path)
                line, end = _parse(path, number, text.removesuffix(b"\n")), end + len(text)
                if latest is not None and line["round"] <= latest:
                    raise RunFolderError(
                        f"rounds in '{path}' must rise, got round {line['round']} after round {latest}; "
                        "hint: have two runs written to this folder?"
                    )
                latest = line["round"]
                yield line, end
    except FileNotFoundError:
        return
    except OSError as error:
        raise explain_disk(error, path) from error


def _parse(path: Path, number: int, text: bytes) -> dict[str, Any]:
    with contextlib.suppress(ValueError):
        line = json.loads(text)
        if isinstance(line, dict) and type(line.get("round")) is int:
            return line
    raise RunFolderError(
        f"each line of '{path}' must be a JSON table with a round number, got {text[:40]!r} in line {number}"
    )


def _torn(path: Path) -> RunFolderError:
    return RunFolderError(
        f"'{path}' must end in a whole line, got a torn one: the run was killed while it wrote; "
        "hint: --resume cuts it off and goes on"
    )
