"""What clients keep between rounds, on disk: a file a client and round, so that memory does not grow with clients."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as parse_arrays
from safetensors.numpy import save as serialise_arrays

from fedmoe.errors import RunFolderError
from fedmoe.recording.atomic import explain_disk

__all__ = ["ClientStates", "RoundStates"]

SUFFIX = ".safetensors"


class ClientStates:
    """One method's clients: `FOLDER/17/12.safetensors` is what client 17 kept in round 12.

    A run may be resumed from either of its last two checkpoints, so a client's older files stay until both are newer. A
    file is whole or not there after a kill. Files do not wait for the disk: after a power cut the latest may be missing
    or damaged.

    Args:
        folder: where they are; made when something is kept.
        every: rounds between two checkpoints.
    """

    def __init__(self, folder: Path, every: int = 1) -> None:
        self.folder, self.every = folder, every

    def load(self, client_id: int, round_num: int) -> dict[str, NDArray[Any]]:
        """Returns what the client has kept up to and including this round, by name; nothing if it has never.

        Raises:
            RunFolderError: the file is damaged.
        """
        newest = max((number for number in self._rounds(client_id) if number <= round_num), default=0)
        if newest == 0:
            return {}
        path = self._file(client_id, newest)
        try:
            return dict(parse_arrays(path.read_bytes()))
        except OSError as error:
            raise explain_disk(error, path) from error
        except SafetensorError as error:
            raise RunFolderError(
                f"what a client keeps must be as it was written, got '{path}': {error}; hint: start a new run"
            ) from error

    def save(self, client_id: int, round_num: int, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Keeps these arrays as the round's, instead of what may stand there.

        Raises:
            RunFolderError: the disk would not take it.
        """
        path = self._file(client_id, round_num)
        draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        whole = {name: np.ascontiguousarray(arrays[name]) for name in sorted(arrays)}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            draft.write_bytes(serialise_arrays(whole))
            os.replace(draft, path)
        except OSError as error:
            draft.unlink(missing_ok=True)
            raise explain_disk(error, path) from error
        self._forget_older(client_id, round_num)

    def forget_after(self, round_num: int) -> None:
        """Removes what was kept in later rounds: a run goes on from this one."""
        names = os.listdir(self.folder) if self.folder.is_dir() else []
        for client_id in (int(name) for name in names if name.isdecimal()):
            for number in self._rounds(client_id):
                if number > round_num:
                    self._file(client_id, number).unlink()

    def _forget_older(self, client_id: int, round_num: int) -> None:
        rounds = list(self._rounds(client_id))
        last = (round_num - 1) // self.every * self.every  # the last checkpoint; this round's is still to come
        needed = {max((n for n in rounds if n <= limit), default=0) for limit in (last - self.every, last, round_num)}
        for number in rounds:
            if number not in needed and number < round_num:
                with contextlib.suppress(OSError):  # one that will not go is a nuisance, not a reason to end the run
                    self._file(client_id, number).unlink()

    def _rounds(self, client_id: int) -> Iterator[int]:
        try:
            names = os.listdir(self.folder / str(client_id))
        except FileNotFoundError:
            return
        for name in names:
            stem = name.removesuffix(SUFFIX)
            if stem != name and stem.isdecimal():
                yield int(stem)

    def _file(self, client_id: int, round_num: int) -> Path:
        return self.folder / str(client_id) / f"{round_num}{SUFFIX}"


class RoundStates:
    """What clients have kept before a round, and keep in it: a later job of a client finds what an earlier one kept.

    What a killed run has kept in the same round is never found; its processes may even still be writing.

    Args:
        states: the method's.
        round_num: 1-based.
    """

    def __init__(self, states: ClientStates, round_num: int) -> None:
        self.states, self.round_num = states, round_num
        self.written: set[int] = set()

    def load(self, client_id: int) -> dict[str, NDArray[Any]]:
        """Returns what the client has kept, by name."""
        return self.states.load(client_id, self.round_num - (client_id not in self.written))

    def keep(self, client_id: int, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Keeps these arrays, beside those of other names that the client has kept already."""
        self.states.save(client_id, self.round_num, self.load(client_id) | dict(arrays))
        self.written.add(client_id)
