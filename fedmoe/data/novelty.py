"""Label combinations that no training client has, and the unseen clients that hold them."""

from collections.abc import Collection, Sequence
from itertools import combinations
from math import comb

import numpy as np

from fedmoe.data.contracts import Deal, Ids
from fedmoe.data.holdings import Holdings, LabelSet
from fedmoe.errors import SettingsError
from fedmoe.seeding import numpy_stream

__all__ = ["draw_sets", "label_sets", "unseen_of", "unseen_with_novel_labels"]

# Up to so many combinations are listed and shuffled (exact when few are left); above, they are drawn one by one.
LISTED_AT_MOST = 50_000


def label_sets(shares: Sequence[Ids], deal: Deal) -> set[LabelSet]:
    """Returns the label combinations that occur: of each share, and of each anchor group."""
    return set(Holdings.of(shares).label_sets(deal.labels_N)) | set(deal.groups)


def draw_sets(
    count: int, items: Sequence[int], size: int, taken: Collection[LabelSet], stream: np.random.Generator
) -> list[LabelSet]:
    """Returns up to `count` distinct sets of `size` items, each sorted, none taken; fewer if no more are left."""
    total = comb(len(items), size)
    if total <= max(LISTED_AT_MOST, 4 * (len(taken) + count)):
        left = [chosen for chosen in combinations(sorted(items), size) if chosen not in taken]
        return [left[at] for at in stream.permutation(len(left))[:count]]
    drawn: dict[LabelSet, None] = {}
    while len(drawn) < count:  # at least half of all sets are free, so this ends soon
        chosen = tuple(sorted(stream.choice(items, size=size, replace=False).tolist()))
        if chosen not in taken:
            drawn[chosen] = None
    return list(drawn)


def unseen_with_novel_labels(
    deal: Deal, train: Sequence[Ids], size: int, *, hint: str
) -> tuple[tuple[Ids, ...], tuple[str, ...]]:
    """Returns each unseen client's samples, all test samples of a label combination new to training, and notes.

    Args:
        deal: what is to be dealt.
        train: the training clients' shares; their combinations and the anchors' groups are taken.
        size: labels of an unseen client.
        hint: what to change when no combination is left.

    Raises:
        SettingsError: no combination is left.
    """
    known = np.unique(deal.labels_N[deal.test_ids]).tolist()
    taken = label_sets(train, deal)
    sets = draw_sets(deal.num_unseen, known, size, taken, numpy_stream(deal.seed, "unseen"))
    if not sets:
        raise SettingsError(
            "an unseen client must hold a label combination that no training client has, but all "
            f"{comb(len(known), size)} combinations of {size} of the {len(known)} labels are held by the {len(train)} "
            f"normal training clients or the anchors; hint: {hint}"
        )
    return unseen_of(sets, deal)


def unseen_of(sets: Sequence[LabelSet], deal: Deal) -> tuple[tuple[Ids, ...], tuple[str, ...]]:
    """Returns each unseen client's samples, the sets taken in turn, and a note where a set had to be repeated."""
    samples = [deal.test_ids[np.isin(deal.labels_N[deal.test_ids], chosen)] for chosen in sets]
    shares = tuple(samples[client % len(sets)] for client in range(deal.num_unseen))
    if len(sets) >= deal.num_unseen:
        return shares, ()
    note = (
        f"only {len(sets)} label combinations are kept for unseen clients, and the {deal.num_unseen} unseen clients "
        "share them: those with equal labels hold the same test samples"
    )
    return shares, (note,)
