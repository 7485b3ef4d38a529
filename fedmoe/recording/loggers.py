"""What a run tells while it goes: the contract of a logger, and several loggers as one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

__all__ = ["LoggerGroup", "RunLogger"]


class RunLogger(Protocol):
    """Is told what a run does: once at its start, after every round of every method, once at its end."""

    def start(self, header: Mapping[str, Any]) -> None:
        """Is told what is going to run: data, clients, experts, device, seed, rounds, run folder."""
        ...

    def trainer(self, method: str, choice: Mapping[str, Any]) -> None:
        """Is told how the clients of `method` are trained, as in `trainer.json`."""
        ...

    def round(self, method: str, line: Mapping[str, Any]) -> None:
        """Is told of one round of `method` by its line in `rounds.jsonl`."""
        ...

    def end(self, summary: Mapping[str, Any]) -> None:
        """Is told what came out, as in `summary.json`."""
        ...


@dataclass(frozen=True)
class LoggerGroup:
    """Several loggers as one; each is told in turn.

    Attributes:
        loggers: in the order in which they are told.
    """

    loggers: Sequence[RunLogger]

    def start(self, header: Mapping[str, Any]) -> None:
        """Tells each logger of the start."""
        for logger in self.loggers:
            logger.start(header)

    def trainer(self, method: str, choice: Mapping[str, Any]) -> None:
        """Tells each logger how clients are trained."""
        for logger in self.loggers:
            logger.trainer(method, choice)

    def round(self, method: str, line: Mapping[str, Any]) -> None:
        """Tells each logger of a round."""
        for logger in self.loggers:
            logger.round(method, line)

    def end(self, summary: Mapping[str, Any]) -> None:
        """Tells each logger of the end."""
        for logger in self.loggers:
            logger.end(summary)
