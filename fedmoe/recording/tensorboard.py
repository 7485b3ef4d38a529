"""TensorBoard files: one TensorBoard run a method, so that methods lie over each other in every chart."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from fedmoe.recording.atomic import explain_disk
from fedmoe.recording.wording import notes_of, stand_in_warning

__all__ = ["TensorBoardLogger"]


class TensorBoardLogger:
    """Writes scalars under `RUN/tensorboard/METHOD/`.

    Args:
        run: the run folder.
        resumed_after: by method, the round that a resumed run goes on from; later points of the killed run are hidden.
    """

    def __init__(self, run: Path, resumed_after: Mapping[str, int] | None = None) -> None:
        self.folder = run / "tensorboard"
        self.resumed_after = dict(resumed_after or {})
        self.writers: dict[str, SummaryWriter] = {}

    def start(self, header: Mapping[str, Any]) -> None:
        """Writes what runs, with the warning about stand-in data, as text beside the main method's charts."""
        writer = self._writer(str(header.get("strategy") or "main"))
        warning = stand_in_warning(header)
        if warning:
            writer.add_text("stand-in data", f"**{warning}**", 0)
        table = [f"| {key} | {value} |" for key, value in header.items() if key != "notes"]
        writer.add_text("run", "\n".join(["| setting | value |", "|---|---|", *table]), 0)

    def trainer(self, method: str, choice: Mapping[str, Any]) -> None:
        """Writes nothing: it is in `trainer.json`."""

    def round(self, method: str, line: Mapping[str, Any]) -> None:
        """Writes one round's scalars; they are on the disk when this returns.

        Raises:
            RunFolderError: the disk would not take them.
        """
        writer = self._writer(method)
        try:
            for tag, value in scalars(line).items():
                writer.add_scalar(tag, value, line["round"])
            writer.flush()
        except OSError as error:
            raise explain_disk(error, self.folder) from error

    def end(self, summary: Mapping[str, Any]) -> None:
        """Writes the notes as text and closes the files."""
        writer = self._writer(str(summary.get("strategy") or "main"))
        for number, note in enumerate(notes_of(summary)):
            writer.add_text("notes", note, number)
        for opened in self.writers.values():
            opened.close()
        self.writers.clear()

    def _writer(self, method: str) -> SummaryWriter:
        if method not in self.writers:
            # TensorBoard hides points at or after purge_step that older files of the same folder hold.
            after = self.resumed_after.get(method)
            purge = None if after is None else after + 1
            folder = self.folder / (re.sub(r"[^A-Za-z0-9_.-]+", "-", method).strip("-.") or "main")
            try:
                writer = SummaryWriter(str(folder), purge_step=purge)
            except OSError as error:
                raise explain_disk(error, folder) from error
            self.writers[method] = writer
        return self.writers[method]


def scalars(line: Mapping[str, Any]) -> dict[str, float]:
    """Returns tag -> number for all that a round's line has; what is missing or null is left out."""
    found: dict[str, Any] = {
        "train/loss": (line.get("train") or {}).get("loss"),
        "train/completed": line.get("completed"),
        "train/failures": len(line.get("failures") or ()),
        "bytes/down": (line.get("bytes") or {}).get("down"),
        "bytes/up": (line.get("bytes") or {}).get("up"),
        "seconds/round": (line.get("seconds") or {}).get("round"),
    }
    load = line.get("load") or []
    if len(load) > 1:
        found |= {f"load/expert {expert}": holders for expert, holders in enumerate(load)}
    evaluation = line.get("evaluate") or {}
    for name, figures in (evaluation.get("methods") or {}).items():
        found |= {f"unseen {name}/{key}": value for key, value in figures.items()}
    found["gate/routing entropy in nats"] = evaluation.get("routing_entropy")
    found["seconds/personalise"] = (line.get("seconds") or {}).get("personalise")
    if len(load) > 1 and evaluation:
        found["gate/routing stability"] = evaluation.get("routing_stability")
        found["gate/dead experts"] = len(evaluation["dead_experts"]) if "dead_experts" in evaluation else None
    return {tag: float(value) for tag, value in found.items() if value is not None}
