"""What a method's rounds tell beside accuracy and bytes, in a line each: for those who do not read `rounds.jsonl`."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from fedmoe.recording.wording import bytes_text, percent, variant_title

__all__ = ["Remarks"]

EVENTS = {
    "alarm": "accused",
    "term": "its term is over",
    "next": "another candidate",
    "replaced": "replaced",
    "cleared": "cleared",
}
MOST = 12  # events that are told; the rest is in `rounds.jsonl`


class Remarks:
    """Collects, round by round, what was sent ahead and what has happened to experts.

    >>> found = Remarks()
    >>> found.add({"round": 7, "life_cycle": {"events": [[1, "alarm"]]}})
    >>> found.texts({"robust": {"zero_shot": {"mean": 0.75}, "flips": {"mean": 0.125}}})
    ['life cycle: expert 1 accused (round 7)', 'under attack: zero-shot 75.0 %; routed anew: 12.5 %']
    """

    def __init__(self) -> None:
        self.ahead: Counter[str] = Counter()
        self.events: list[str] = []

    def add(self, line: Mapping[str, Any]) -> None:
        """Takes a round's line into account."""
        told = line.get("prefetch") or {}
        self.ahead.update({key: told.get(key) or 0 for key in ("judged", "hits", "bytes_ahead", "bytes_wasted")})
        for expert, what in (line.get("life_cycle") or {}).get("events", ()):
            self.events.append(f"expert {expert} {EVENTS[what]} (round {line['round']})")

    def texts(self, evaluation: Mapping[str, Any]) -> list[str]:
        """Returns the lines; `evaluation` is the latest evaluation's record."""
        found = []
        if self.ahead["bytes_ahead"]:
            judged = self.ahead["judged"]
            hits = f"hits: {percent(self.ahead['hits'] / judged)}" if judged else "nobody chose anew"
            wasted, whole = (bytes_text(self.ahead[key]) for key in ("bytes_wasted", "bytes_ahead"))
            found.append(f"sent a round ahead: {whole}, of it wasted {wasted}; {hits}")
        if self.events:
            more = len(self.events) - MOST
            rest = [f"and {more} events more, in rounds.jsonl"] if more > 0 else []
            found.append("life cycle: " + ", ".join([*self.events[:MOST], *rest]))
        robust = {name: told["mean"] for name, told in (evaluation.get("robust") or {}).items()}
        if robust:
            flips = robust.pop("flips", None)
            each = ", ".join(f"{variant_title(name)} {percent(mean)}" for name, mean in robust.items())
            found.append(f"under attack: {each}" + ("" if flips is None else f"; routed anew: {percent(flips)}"))
        seen = (evaluation.get("seen") or {}).get("methods") or {}
        if seen:
            each = ", ".join(f"{variant_title(name)} {percent(told['mean'])}" for name, told in seen.items())
            found.append(f"training clients: {each}")
        return found
