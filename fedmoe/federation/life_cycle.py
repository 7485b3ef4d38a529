"""The life cycle of a pool's experts: watched, put on probation beside a candidate, replaced where that is better."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace

import numpy as np
from numpy.typing import NDArray

from fedmoe.federation.drop_alarm import DropAlarm, Watch

__all__ = ["Duel", "Event", "Life", "LifeCycle", "lives_from", "lives_to_array"]


@dataclass(frozen=True)
class Duel:
    """How incumbent and candidate did on the same samples, each as it was received.

    Attributes:
        samples: how many.
        incumbent: of them, how many the incumbent had right.
        candidate: how many the candidate.
    """

    samples: int
    incumbent: int
    candidate: int

    @property
    def lead(self) -> float:
        """Returns by how much the candidate is better, a share of the samples."""
        return (self.candidate - self.incumbent) / self.samples


@dataclass(frozen=True)
class Life:
    """Where one expert stands.

    Attributes:
        watch: what is known of its reward.
        born: round from which on it serves.
        accused: round whose alarm began its probation; 0: it is on none.
        candidates: how many have been tried in this probation, the one at hand among them.
        tried: rounds in which that one has been measured.
        won: the latest of them in a row that it won by the margin.
        well: the latest rounds of the probation in a row in which the incumbent was as good as before.
    """

    watch: Watch = field(default_factory=Watch)
    born: int = 0
    accused: int = 0
    candidates: int = 0
    tried: int = 0
    won: int = 0
    well: int = 0


@dataclass(frozen=True)
class Event:
    """What has happened to an expert.

    Attributes:
        expert: its id.
        what: `"alarm"` (its reward has dropped), `"term"` (its time of service is over): its probation begins;
            `"next"` (the candidate is given up, another comes), `"replaced"`, `"cleared"` (it is as good as before).
    """

    expert: int
    what: str


@dataclass(frozen=True)
class LifeCycle:
    """The rules (arXiv 2501.17903 names the stages; the numbers are ours).

    Attributes:
        alarm: what accuses an expert.
        margin: by what share of the samples a candidate has to be better.
        rounds: rounds in a row in which it has to be, or in which the incumbent has to be as good as before.
        trial: rounds of measurement after which a candidate is given up.
        term: rounds after which an expert has to stand up to a candidate anyway; 0: never.
    """

    alarm: DropAlarm
    margin: float = 0.05
    rounds: int = 3
    trial: int = 20
    term: int = 0

    def after(self, life: Life, round_num: int, reward: float | None, duel: Duel | None) -> tuple[Life, str]:
        """Returns where an expert stands after a round, and what has happened to it; empty: nothing.

        Args:
            life: where it stood.
            round_num: 1-based.
            reward: of the round; `None`: nobody could tell.
            duel: with its candidate; `None`: nobody trained both.
        """
        if not life.accused:
            watch = life.watch if reward is None else self.alarm.after(life.watch, reward)
            over = self.term > 0 and round_num - life.born >= self.term
            if self.alarm.rings(watch) or over:
                what = "alarm" if self.alarm.rings(watch) else "term"
                if what == "term":  # it is accused of nothing, whatever the watch has begun to suspect
                    watch = replace(watch, score=0.0)
                return replace(life, watch=watch, accused=round_num, candidates=1, tried=0, won=0, well=0), what
            return replace(life, watch=watch), ""
        if reward is not None and life.watch.score > 0:  # one whose term is over is not accused of anything
            usual = reward >= life.watch.mean - self.alarm.slack * life.watch.spread
            life = replace(life, well=life.well + 1 if usual else 0)
        if duel is not None:
            won = life.won + 1 if duel.lead >= self.margin else 0
            life = replace(life, tried=life.tried + 1, won=won)
        if life.won >= self.rounds:
            return Life(born=round_num), "replaced"
        if life.well >= self.rounds:
            return Life(watch=replace(life.watch, score=0.0), born=life.born), "cleared"
        if life.tried >= self.trial:
            if not life.watch.score:
                return Life(watch=life.watch, born=round_num), "cleared"
            return replace(life, candidates=life.candidates + 1, tried=0, won=0), "next"
        return life, ""

    def round(
        self, lives: Sequence[Life], round_num: int, rewards: Mapping[int, float], duels: Mapping[int, Duel]
    ) -> tuple[list[Life], list[Event]]:
        """Returns where all experts stand after a round, and what has happened."""
        after, events = [], []
        for expert_id, life in enumerate(lives):
            new, what = self.after(life, round_num, rewards.get(expert_id), duels.get(expert_id))
            after.append(new)
            events += [Event(expert_id, what)] if what else []
        return after, events


WATCHED = tuple(own.name for own in fields(Watch))
COUNTED = tuple(own.name for own in fields(Life) if own.name != "watch")


def lives_to_array(lives: Sequence[Life]) -> NDArray[np.float64]:
    """Returns all that is known of the experts as one array, a row each, as it is kept in a checkpoint."""
    rows = [
        [*(getattr(life.watch, name) for name in WATCHED), *(getattr(life, name) for name in COUNTED)] for life in lives
    ]
    return np.array(rows, dtype=np.float64)


def lives_from(array: NDArray[np.generic]) -> list[Life]:
    """Returns what `lives_to_array` wrote.

    >>> lives = [Life(born=3), Life(Watch(7, 0.5, 0.01, 1.5), accused=9, candidates=1)]
    >>> lives_from(lives_to_array(lives)) == lives
    True
    """
    found = []
    for row in np.asarray(array, dtype=np.float64).tolist():
        seen, *figures = row[: len(WATCHED)]
        counts = dict(zip(COUNTED, map(int, row[len(WATCHED) :]), strict=True))
        found.append(Life(watch=Watch(int(seen), *figures), **counts))
    return found
