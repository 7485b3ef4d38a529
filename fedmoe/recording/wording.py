"""How figures are said to a person: names of methods, percentages, bytes, and the warning about stand-in data."""

from collections.abc import Iterable, Mapping
from typing import Any

__all__ = [
    "VARIANTS",
    "bytes_text",
    "cold_start_text",
    "method_title",
    "notes_of",
    "percent",
    "routing_text",
    "seconds_text",
    "stand_in_warning",
    "starts_apart",
    "trainer_text",
    "variant_title",
]

TITLES = {
    "canonical": "Canonical gates",
    "fedadam": "FedAdam",
    "fedavg": "FedAvg",
    "fedavg finetuned": "FedAvg + fine-tuning",
    "fedavg own": "FedAvg with tensors of their own",
    "fedavgm": "FedAvgM",
    "fedem": "FedEM",
    "logistic em": "EM (logistic)",
    "advmoe": "AdvMoE",
    "fedjets": "FedJETs",
    "fedjets adam": "FedJETs with Adam",
    "fedjets avgm": "FedJETs with momentum",
    "fedjets found": "FedJETs, anchors found",
    "fedmix": "FedMix",
    "lasso": "L1 penalty",
    "fedprints": "FedPrints",
    "fedprox": "FedProx",
    "fedrep": "FedRep",
    "fedsgd": "FedSGD",
    "free agent": "Free agents",
    "ifca": "IFCA",
    "prefetch": "Experts sent ahead",
    "scaffold": "SCAFFOLD",
    "self tuning": "Self-tuning",
    "taskmoe": "TaskMoE",
}

STARTS = {"random": "random weights", "common": "the common expert"}

VARIANTS = {
    "zero_shot": "zero-shot",
    "zero_shot_em": "zero-shot + prior correction",
    "zero_shot_guarded": "zero-shot + guarded prior correction",
    "mixture": "mixture of held experts",
    "mixture_em": "mixture + prior correction",
    "mixture_guarded": "mixture + guarded prior correction",
    "best_expert": "best single expert (bound)",
    "plain": "alone",
    "em": "with prior correction",
    "guarded": "with guarded prior correction",
}

DENSE = {
    "zero_shot": "the model",
    "zero_shot_em": "with prior correction",
    "zero_shot_guarded": "with guarded prior correction",
}


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


def routing_text(told: Mapping[str, Any]) -> str:
    """Returns a method's entry in the summary's `routing` as a few words.

    >>> routing_text({"dead_experts": [3], "untrained_experts": [], "routing_stability": 0.875, "specialisation": 0.5})
    'dead experts: 3; nobody held: none; held sets that stayed: 87.5 %; specialisation: 0.50 nats'
    """
    names = {"dead experts": "dead_experts", "nobody held": "untrained_experts"}
    parts = [f"{words}: {', '.join(map(str, told.get(key) or ())) or 'none'}" for words, key in names.items()]
    parts.append(f"held sets that stayed: {percent(told.get('routing_stability'))}")
    if told.get("specialisation") is not None:
        parts.append(f"specialisation: {told['specialisation']:.2f} nats")
    return "; ".join(parts)


def cold_start_text(told: Mapping[str, Mapping[str, Mapping[str, float]]], dense: bool = False) -> str:
    """Returns a method's entry in the summary's `cold_start` as a few words.

    >>> cold_start_text({"1": {"zero_shot": {"mean": 0.5}}, "10": {"zero_shot": {"mean": 0.625}}})
    'zero-shot: 50.0 % by 1 sample at a time, 62.5 % by 10'
    """
    found: dict[str, list[str]] = {}
    for size, figures in told.items():
        for variant, spread in figures.items():
            parts = found.setdefault(variant, [])
            words = "" if parts else " sample at a time" if size == "1" else " samples at a time"
            parts.append(f"{percent(spread['mean'])} by {size}{words}")
    return "; ".join(f"{variant_title(variant, dense)}: {', '.join(parts)}" for variant, parts in found.items())


def seconds_text(seconds: float) -> str:
    """Returns a time in a unit that suits it.

    >>> seconds_text(0.0123), seconds_text(2.5)
    ('12.3 ms', '2.50 s')
    """
    return f"{1000 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s" if seconds >= 10 else f"{seconds:.2f} s"


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


def starts_apart(starts: Iterable[tuple[str, str]]) -> list[str]:
    """Returns a note where some methods' experts start from random weights and others' from the common expert.

    Args:
        starts: (method, `"random"` or `"common"`), in any order, the same as often as it comes.

    >>> starts_apart([("fedjets", "random"), ("fedavg", "common"), ("fedprox", "common")])
    ['experts start apart: FedJETs from random weights; FedAvg, FedProx from the common expert']
    >>> starts_apart([("fedavg", "common"), ("fedprox", "common")])
    []
    """
    told: dict[str, dict[str, None]] = {}
    for method, start in starts:
        told.setdefault(start, {})[method_title(method)] = None
    if len(told) < 2:
        return []
    parts = (f"{', '.join(told[start])} from {words}" for start, words in STARTS.items())
    return [f"experts start apart: {'; '.join(parts)}"]


def notes_of(record: Mapping[str, Any]) -> list[str]:
    """Returns the notes of a header or summary."""
    return [str(note) for note in record.get("notes") or ()]


def trainer_text(choice: Mapping[str, Any]) -> str:
    """Returns which trainer was chosen, and how it compares with the other, in one line.

    >>> figures = [{"trainer": "loop", "seconds": 0.004}, {"trainer": "stacked", "seconds": 0.001}]
    >>> trainer_text({"kind": "stacked", "width": 50, "figures": figures, "clients": 50})
    'up to 50 clients trained as one program: 4.0 times as fast as one after another, measured'
    """
    stacked, figures = choice["kind"] == "stacked", choice["figures"]
    width = f"up to {choice['width']} clients" if choice.get("width") else "as many clients as memory allows"
    compiled = ", compiled" if choice.get("compiled") else ""
    text = f"{width} trained as one program{compiled}" if stacked else "clients trained one after another"
    best = {
        kind: min((f["seconds"] for f in figures if f["trainer"] == kind and "seconds" in f), default=None)
        for kind in ("loop", "stacked")
    }
    if best["loop"] and best["stacked"]:
        ratio = best["loop"] / best["stacked"] if stacked else best["stacked"] / best["loop"]
        text += f": {ratio:.1f} times as fast as {'one after another' if stacked else 'in one program'}, measured"
    if looped := list(choice.get("looped", {}).values()):
        kinds = "a kind of job" if len(looped) == 1 else f"{len(looped)} kinds of jobs"
        text += f"; {kinds} one after another (as one program: {looped[0]})"
    failed = [f["error"] for f in figures if f["trainer"] == "stacked" and "error" in f]
    return text + (f" (as one program they cannot be: {failed[0]})" if failed and not stacked else "")
