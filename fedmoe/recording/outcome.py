"""What a method's rounds come to, read line by line: a long run's rounds are never in memory together."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedmoe.recording.remarks import Remarks
from fedmoe.recording.rounds import iter_rounds

__all__ = ["Outcome", "read_outcome"]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a method's `rounds.jsonl` adds up to.

    Attributes:
        seconds: of each round, in their order.
        down: bytes from server to clients over all rounds, by the ledger.
        up: bytes from clients to server.
        failures: client jobs that failed.
        took_part: client id -> rounds in which it was sampled; clients that never were are left out.
        evaluation: the latest evaluation's record; empty where there was none.
        untrained: experts that nobody held in the rounds from the evaluation before that one up to it.
        personalise: seconds to serve one unseen client, of each evaluation.
        remarks: what else the rounds tell, a line each.
    """

    seconds: tuple[float, ...]
    down: int
    up: int
    failures: int
    took_part: Mapping[int, int]
    evaluation: Mapping[str, Any]
    untrained: tuple[int, ...] = ()
    personalise: tuple[float, ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def rounds(self) -> int:
        """How many rounds there are."""
        return len(self.seconds)


def read_outcome(path: Path) -> Outcome:
    """Returns what the rounds in the file at `path` come to.

    Raises:
        RunFolderError: a line is not a round's record, or rounds are out of order.
    """
    seconds: list[float] = []
    sent: Counter[str] = Counter()
    took_part: Counter[int] = Counter()
    failures = 0
    evaluation: Mapping[str, Any] = {}
    personalise: list[float] = []
    # expert id -> clients that have held it since the last evaluation
    held: Counter[int] = Counter()
    untrained: tuple[int, ...] = ()
    remarks = Remarks()
    for line in iter_rounds(path):
        remarks.add(line)
        seconds.append(float(line["seconds"]["round"]))
        sent.update(down=line["bytes"]["down"], up=line["bytes"]["up"])
        took_part.update(line["clients"])
        failures += len(line["failures"])
        held.update(dict(enumerate(line["load"])))
        if line["evaluate"]:
            evaluation, untrained = line["evaluate"], tuple(sorted(i for i, count in held.items() if not count))
            held.clear()
            # a run that an older version began has rounds without it
            personalise += [line["seconds"]["personalise"]] if "personalise" in line["seconds"] else []
    return Outcome(
        seconds=tuple(seconds),
        down=sent["down"],
        up=sent["up"],
        failures=failures,
        took_part=took_part,
        evaluation=evaluation,
        untrained=untrained,
        personalise=tuple(personalise),
        remarks=tuple(remarks.texts(evaluation)),
    )
