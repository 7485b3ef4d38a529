"""What a client got, in words and rows, for a terminal and for the page."""

from fedmoe.personal.personalized import MIXTURE, Personalized
from fedmoe.recording.wording import bytes_text, method_title, percent, variant_title

__all__ = [
    "accuracy_rows",
    "cost_rows",
    "experts_text",
    "fetched",
    "headline",
    "milliseconds",
    "total",
    "whole_pool",
    "whole_text",
]


def milliseconds(seconds: float) -> str:
    """Returns a time in milliseconds.

    >>> milliseconds(0.01234), milliseconds(1.5)
    ('12.3 ms', '1500 ms')
    """
    value = 1000 * seconds
    return f"{value:.3g} ms" if value < 100 else f"{value:.0f} ms"


def fetched(found: Personalized) -> int:
    """Returns the bytes that were fetched for this client alone: gate and experts."""
    return found.bytes["gate"] + found.bytes["experts"]


def whole_pool(found: Personalized) -> int:
    """Returns what would be fetched if all experts were, the gate counted as in `fetched`."""
    return found.bytes["gate"] + found.bytes["pool"]


def whole_text(found: Personalized) -> str:
    """Returns what `whole_pool` counts."""
    return "the gate and all experts" if found.bytes["gate"] else "all experts"


def total(found: Personalized) -> float:
    """Returns the seconds from the first look to the answers; what is for comparison only is left out.

    That is the prior correction, and the common expert where the method needs none.
    """
    steps = ("embed", "rank", "fetch", "predict") if found.bytes["common"] else ("rank", "fetch", "predict")
    return sum(found.seconds[name] for name in steps)


def experts_text(found: Personalized) -> str:
    """Returns which parts were fetched."""
    if len(found.scores) == 1:
        return "the model"
    read = "all experts" if found.routed_by == "confidence" else _named(found.experts)
    return f"the gate and {read}" if found.bytes["gate"] else read


def headline(found: Personalized) -> list[str]:
    """Returns what came out, in a few sentences, the most important first."""
    pool, ranked = len(found.scores), bytes_text(fetched(found))
    if pool == 1:
        first = f"One model for everybody: {ranked} were fetched."
    else:
        first = (
            f"{_named(found.experts).capitalize()} of {pool} serve this client: {ranked} were fetched, "
            f"{whole_text(found)} would be {bytes_text(whole_pool(found))}."
        )
    sentences = [first, f"From the first look to the answers it took {milliseconds(total(found))}."]
    told = found.accuracies
    if told:
        before, after = told["plain"], told["zero_shot"]
        what = "better than" if after > before else "worse than" if after < before else "as good as"
        sentences.append(
            f"{percent(after)} of {len(found.images)} images are right, {what} the common expert alone "
            f"({percent(before)}); with prior correction {percent(told['zero_shot_em'])} against "
            f"{percent(told['em'])}."
        )
    return sentences


def accuracy_rows(found: Personalized) -> list[tuple[str, list[str]]]:
    """Returns a row for each way to predict: (kind, [who, how, share of right answers])."""
    dense = len(found.scores) == 1
    rows = []
    for name, share in found.accuracies.items():
        before = not name.startswith(("zero_shot", "mixture"))
        who = "before: common expert" if before else f"after: {method_title(found.method)}"
        own = name.startswith("zero_shot") and (found.chosen == MIXTURE).all()  # it answers by its mixture
        how = variant_title(name.replace("zero_shot", "mixture") if own else name, dense)
        rows.append(("main" if name == "zero_shot" else "", [who, how, percent(share)]))
    return rows


def cost_rows(found: Personalized) -> list[tuple[str, list[str]]]:
    """Returns a row for each step: (kind, [what, bytes, time])."""
    sizes, seconds = found.bytes, found.seconds
    once = bytes_text(sizes["common"]) if sizes["common"] else "-"
    embed = "look: the common expert embeds the images (itself fetched once, for good)"
    embed = embed if sizes["common"] else "look: the common expert, here for the comparison only"
    rank = {"gate": "rank: the gate", "confidence": "rank: all experts' confidence", "none": "rank: nothing ranks"}
    read = {"confidence": f"fetch: all {len(found.scores)} experts", "none": f"fetch: {_counted(found)}"}
    fetch = read.get(found.routed_by, f"fetch: {_counted(found)} (time: with the gate)")
    return [
        ("", [embed, once, milliseconds(seconds["embed"])]),
        ("", [rank[found.routed_by], bytes_text(sizes["gate"]) if sizes["gate"] else "-", _time(found, "rank")]),
        ("", [fetch, bytes_text(sizes["experts"]), milliseconds(seconds["fetch"])]),
        ("", [f"predict: {len(found.images)} images", "-", milliseconds(seconds["predict"])]),
        ("main", ["fetched for this client", bytes_text(fetched(found)), milliseconds(total(found))]),
        ("bound", [f"{whole_text(found)}, for comparison", bytes_text(whole_pool(found)), "-"]),
        ("", ["prior correction, for comparison", "-", milliseconds(seconds["correct"])]),
    ]


def _time(found: Personalized, name: str) -> str:
    return "-" if found.routed_by == "none" else milliseconds(found.seconds[name])


def _counted(found: Personalized) -> str:
    count = len(found.experts)
    return "the model" if len(found.scores) == 1 else f"{count} of {len(found.scores)} experts"


def _named(experts: tuple[int, ...]) -> str:
    """Returns some experts by their numbers.

    >>> _named((3,)), _named((3, 1)), _named((0, 1, 2))
    ('expert 3', 'experts 3 and 1', 'experts 0, 1 and 2')
    """
    if len(experts) == 1:
        return f"expert {experts[0]}"
    return f"experts {', '.join(map(str, experts[:-1]))} and {experts[-1]}"
