"""`rounds.jsonl`: one JSON line a round, the interface to all that plots, compares or resumes."""

import contextlib
import itertools
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedmoe.errors import RunFolderError
from fedmoe.recording.atomic import explain_disk, write_atomic
from fedmoe.recording.plain import json_text

__all__ = ["append_round", "read_rounds", "truncate_rounds"]


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


def read_rounds(path: Path, torn_ok: bool = False) -> list[dict[str, Any]]:
    """Returns the rounds in the file at `path`, oldest first; none where there is no such file.

    Args:
        path: a `rounds.jsonl`.
        torn_ok: leave out a last line that a killed run did not finish, in place of refusing the file.

    Raises:
        RunFolderError: a line is not a round's record, or rounds are out of order.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise explain_disk(error, path) from error
    *whole, rest = content.split(b"\n")
    if rest and not torn_ok:
        raise _torn(path)
    rounds = [_parse(path, number, text) for number, text in enumerate(whole, start=1)]
    for earlier, later in itertools.pairwise(rounds):
        if later["round"] <= earlier["round"]:
            raise RunFolderError(
                f"rounds in '{path}' must rise, got round {later['round']} after round {earlier['round']}; "
                "hint: have two runs written to this folder?"
            )
    return rounds


def truncate_rounds(folder: Path, last_round: int) -> list[dict[str, Any]]:
    """Cuts `folder/rounds.jsonl` back to rounds 1 to `last_round` and returns them; a torn last line goes too.

    A run writes a round's line before its checkpoint, so the round of any checkpoint has its line.

    Raises:
        RunFolderError: a round up to `last_round` is missing, or the file cannot be written.
    """
    path = folder / "rounds.jsonl"
    kept = [line for line in read_rounds(path, torn_ok=True) if line["round"] <= last_round]
    missing = sorted(set(range(1, last_round + 1)) - {line["round"] for line in kept})
    if missing:
        raise RunFolderError(
            f"'{path}' must have a line for each of the {last_round} rounds that the checkpoint stands on, "
            f"got none for round {missing[0]}; hint: start a new run"
        )
    lines = path.read_bytes().split(b"\n")[: len(kept)] if path.exists() else []
    write_atomic(path, b"".join(line + b"\n" for line in lines))
    return kept


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
