"""The answer in words: who serves unseen clients best, by the run's own figures; gaps under one point are ties."""

from fedmoe.recording.run_record import Figures, RunRecord
from fedmoe.recording.wording import percent

__all__ = ["TIE", "compare", "verdict"]

TIE = 1.0
"""Points of accuracy below which two figures of one run are called a tie: another seed may well turn them round."""

PLAIN, CORRECTED = ("zero_shot", "plain"), ("zero_shot_em", "em")
FAIR = {
    "zero_shot": "", "plain": "", "zero_shot_em": " with prior correction", "em": " with prior correction",
    "mixture": " by its mixture", "mixture_em": " by its mixture with prior correction",
    "guarded": " with guarded prior correction", "zero_shot_guarded": " with guarded prior correction",
    "mixture_guarded": " by its mixture with guarded prior correction",
}  # fmt: skip
OUTCOMES = {1: "wins", 0: "ties for the first place", -1: "does not win"}

Means = dict[str, float]


def verdict(record: RunRecord) -> tuple[str, list[str], list[str]]:
    """Returns a headline, the sentences that give its grounds, and sentences on how to take them."""
    figures = record.figures()
    plain, corrected = (_means(figures, variants) for variants in (PLAIN, CORRECTED))
    main = record.title(record.main)
    if record.main not in plain:
        return f"{main} has not been tested on unseen clients yet.", [], []
    if len(plain) == 1:
        return (
            f"{main} reaches {percent(plain[record.main])} on clients that it never saw.",
            ["Nothing else was tested on the same clients, so there is nothing to compare it with."],
            _about_main(record, figures),
        )
    sentences = [_comparison(record, "Without prior correction", plain)]
    headline = f"{main} {OUTCOMES[_outcome(plain, record.main)]} without prior correction"
    if record.main in corrected and len(corrected) > 1:
        sentences.append(_comparison(record, "With prior correction", corrected))
        same = _outcome(corrected, record.main) == _outcome(plain, record.main)
        headline = (
            f"{main} {OUTCOMES[_outcome(plain, record.main)]}, with and without prior correction"
            if same
            else f"{headline}, and {OUTCOMES[_outcome(corrected, record.main)]} with it"
        )
        sentences.append(_overall(record, figures))
    return headline + ".", sentences, _about_main(record, figures)


def compare(mine: float, other: float) -> int:
    """Returns 1 if `mine` is above `other` by a point or more, -1 if below by as much, 0 for a tie.

    The gap is rounded as it is printed, so that words and figures never disagree.

    >>> compare(0.61, 0.60), compare(0.609, 0.60), compare(0.50, 0.60)
    (1, 0, -1)
    """
    gap = round(100 * (mine - other), 1)
    return 0 if abs(gap) < TIE else 1 if gap > 0 else -1


def _means(figures: Figures, variants: tuple[str, ...]) -> Means:
    """Returns the mean of each method that has one of the variants."""
    found = {
        method: told[variant].get("mean") for method, told in figures.items() for variant in variants if variant in told
    }
    return {method: mean for method, mean in found.items() if mean is not None}


def _outcome(means: Means, main: str) -> int:
    return min(compare(means[main], mean) for method, mean in means.items() if method != main)


def _comparison(record: RunRecord, words: str, means: Means) -> str:
    mine = means[record.main]
    parts = []
    for method, mean in means.items():
        if method == record.main:
            continue
        gap = abs(round(100 * (mine - mean), 1))
        how = {1: f"{gap:.1f} points above", 0: "a tie with", -1: f"{gap:.1f} points below"}[compare(mine, mean)]
        name = "the common expert" if method == "common expert" else record.title(method)
        parts.append(f"{how} {name} ({percent(mean)})")
    dense = record.dense(record.main)
    who = f"{record.title(record.main)} classifies" if dense else "the gate's experts classify"
    listing = parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + f" and {parts[-1]}"
    return f"{words}, {who} {percent(mine)} of an unseen client's samples correctly: {listing}."


def _overall(record: RunRecord, figures: Figures) -> str:
    """Returns the comparison over all ways to predict: the ranking sees the unlabelled inputs too, so all are fair."""
    entries = {
        (method, variant): mean
        for method, variants in figures.items()
        for variant, told in variants.items()
        if variant in FAIR and (mean := told.get("mean")) is not None
    }
    (leader, how), top = max(entries.items(), key=lambda entry: entry[1])
    best: Means = {}
    for (method, _), mean in entries.items():
        best[method] = max(mean, best.get(method, 0.0))
    title = "the common expert" if leader == "common expert" else record.title(leader)
    sentence = f"Over all, the highest figure is that of {title}{FAIR[how]}, {percent(top)}"
    outcome, mine = _outcome(best, record.main), record.title(record.main)
    if leader != record.main:
        below = round(100 * (top - best[record.main]), 1)
        sentence += f"; {mine} at its best " + (f"is {below:.1f} points below" if outcome < 0 else "ties with it")
    elif outcome == 0:
        sentence += ", a tie with the best of the others"
    return sentence + ". All of these are fair: ranking and correction see the same unlabelled inputs."


def _about_main(record: RunRecord, figures: Figures) -> list[str]:
    told = figures[record.main]
    mine = told["zero_shot"].get("mean")
    sentences = []
    worst = told["zero_shot"].get("worst_decile")
    if worst is not None:
        sentences.append(f"The worst tenth of the unseen clients get {percent(worst)}.")
    bound = (told.get("best_expert") or {}).get("mean")
    if bound is not None and mine is not None and not record.dense(record.main):
        sentences.append(
            f"One expert for all of a client's samples, chosen in hindsight by its labels, would give {percent(bound)}."
        )
    sentences.append(
        f"Gaps under one point are called ties: these are figures of one seed ({record.settings['seed']})."
    )
    return sentences
