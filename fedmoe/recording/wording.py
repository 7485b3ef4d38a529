"""How figures are said to a person: names of methods, percentages, bytes, and the warning about stand-in data."""

from collections.abc import Mapping
from typing import Any

__all__ = ["VARIANTS", "bytes_text", "method_title", "notes_of", "percent", "stand_in_warning", "variant_title"]

TITLES = {"fedjets": "FedJETs", "fedavg": "FedAvg", "fedprox": "FedProx", "fedsgd": "FedSGD", "ifca": "IFCA"}

VARIANTS = {
    "zero_shot": "zero-shot",
    "zero_shot_em": "zero-shot + prior correction",
    "mixture": "mixture of held experts",
    "mixture_em": "mixture + prior correction",
    "best_expert": "best single expert (bound)",
    "plain": "alone",
    "em": "with prior correction",
}

DENSE = {"zero_shot": "the model", "zero_shot_em": "with prior correction"}


def method_title(name: str) -> str:
    """Returns a method's name as it is written in running text.

    >>> method_title("fedavg"), method_title("common expert"), method_title("lab.mine:Method")
    ('FedAvg', 'Common expert', 'Method')
    """
    short = name.rsplit(":", 1)[-1].replace("_", " ")
    return TITLES.get(short.lower(), short[:1].upper() + short[1:])


def variant_title(variant: str, dense: bool = False) -> str:
    """Returns the words for a way to predict, such as `"zero_shot_em"`; a dense method has one model and no gate."""
    words = VARIANTS.get(variant, variant.replace("_", " "))
    return DENSE.get(variant, words) if dense else words


def percent(share: float | None, digits: int = 1) -> str:
    """Returns a share as a percentage, or a dash where there is none.

    >>> percent(0.9134), percent(None)
    ('91.3 %', '-')
    """
    return "-" if share is None else f"{100 * share:.{digits}f} %"


def bytes_text(count: float | None) -> str:
    """Returns a number of bytes in decimal units, or a dash where there is none.

    >>> bytes_text(999), bytes_text(1_234_567)
    ('999 B', '1.23 MB')
    """
    if count is None:
        return "-"
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def stand_in_warning(record: Mapping[str, Any]) -> str | None:
    """Returns the warning that a header or summary needs when its data stand in for others, else None."""
    dataset = record.get("dataset") or {}
    absent = dataset.get("stand_in_for")
    if not absent:
        return None
    kind = "real data, but other data" if dataset.get("real") else "generated data"
    return (
        f"STAND-IN DATA: '{absent}' could not be had, so this run uses '{dataset.get('name')}' ({kind}). "
        f"Its figures say nothing about '{absent}'."
    )


def notes_of(record: Mapping[str, Any]) -> list[str]:
    """Returns the notes of a header or summary."""
    return [str(note) for note in record.get("notes") or ()]
