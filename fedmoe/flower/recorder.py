"""What is kept of a method's rounds, and where it goes on from when its run was cut off."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from fedmoe.evaluation.gathering import held_sets
from fedmoe.federation.state import ServerState
from fedmoe.recording.atomic import write_atomic
from fedmoe.recording.checkpoints import load_checkpoint, newest_checkpoint, save_checkpoint
from fedmoe.recording.loggers import RunLogger
from fedmoe.recording.outcome import read_outcome
from fedmoe.recording.plain import json_text
from fedmoe.recording.rounds import append_round, truncate_rounds
from fedmoe.recording.run_folder import MethodFolder
from fedmoe.training.speed import TrainerChoice

__all__ = ["MethodRecorder", "ResumePoint", "forget_rounds", "resume_point"]

TRAINER = "trainer.json"


@dataclass(frozen=True)
class MethodRecorder:
    """Keeps each round of one method: its line, then its checkpoint, where one is due; a run goes on from the newest.

    Attributes:
        name: the method's.
        place: where it keeps them.
        loggers: who is told as well.
        every: rounds between two checkpoints.
        last: the last round, which always has one.
    """

    name: str
    place: MethodFolder
    loggers: Sequence[RunLogger]
    every: int
    last: int

    def trainer(self, choice: TrainerChoice) -> None:
        """Writes `trainer.json`, and tells the loggers."""
        write_atomic(self.place.path / TRAINER, json_text(asdict(choice), indent=1).encode())
        for logger in self.loggers:
            logger.trainer(self.name, asdict(choice))

    def round(self, line: Mapping[str, Any], state: ServerState, average: ServerState | None) -> None:
        """Writes the line and, where it is due, the checkpoint, and tells the loggers."""
        round_num = int(line["round"])
        full = {"round": round_num, "strategy": self.name, **line}
        append_round(self.place.path, full)
        if round_num % self.every == 0 or round_num == self.last:
            arrays = dict(state.to_arrays())
            if average is not None:
                arrays |= {f"average/{name}": array for name, array in average.to_arrays().items()}
            save_checkpoint(self.place.path, round_num, arrays, {"strategy": self.name})
        for logger in self.loggers:
            logger.round(self.name, full)


@dataclass(frozen=True)
class ResumePoint:
    """Where a method goes on from; round 0 and no state for a new one."""

    round_num: int
    state: ServerState | None
    average: ServerState | None
    trainer: TrainerChoice | None = None
    held: Mapping[int, Sequence[int]] = field(default_factory=dict)


def resume_point(place: MethodFolder) -> ResumePoint:
    """Returns where the method stands; rounds after its newest checkpoint are cut off."""
    newest = newest_checkpoint(place.path)
    if newest is None:
        if place.rounds.exists():
            truncate_rounds(place.path, 0)
        return ResumePoint(0, None, None)
    checkpoint = load_checkpoint(newest)
    truncate_rounds(place.path, checkpoint.round_num)
    own = {name: array for name, array in checkpoint.arrays.items() if not name.startswith("average/")}
    average = {n.removeprefix("average/"): a for n, a in checkpoint.arrays.items() if n.startswith("average/")}
    return ResumePoint(
        checkpoint.round_num,
        ServerState.from_arrays(own),
        ServerState.from_arrays(average) if average else None,
        _chosen_before(place),
        held_sets(read_outcome(place.rounds).evaluation),
    )


def forget_rounds(place: MethodFolder) -> None:
    """Removes a method's rounds and checkpoints."""
    for checkpoint in sorted(place.checkpoints.glob("*")):
        checkpoint.unlink()
    if place.rounds.exists():
        truncate_rounds(place.path, 0)


def _chosen_before(place: MethodFolder) -> TrainerChoice | None:
    """Returns the trainer that the run began with: the other one's last bits differ."""
    file = place.path / TRAINER
    return TrainerChoice.from_json(json.loads(file.read_text())) if file.is_file() else None
