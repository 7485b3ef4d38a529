"""The aligned partition: a client's labels are a union of anchor groups; unseen clients hold unions not trained on."""

from itertools import cycle, islice

import numpy as np

from fedmoe.data.contracts import Deal, Ids, Shares
from fedmoe.data.holdings import LabelSet
from fedmoe.data.novelty import draw_sets, unseen_of
from fedmoe.errors import SettingsError
from fedmoe.seeding import numpy_stream

__all__ = ["aligned"]

# One union in so many, at the most, is reserved for the unseen clients.
RESERVED = 3


def aligned(deal: Deal) -> Shares:
    """Returns shares whose labels are unions of anchor groups; a label's samples are dealt evenly to its holders.

    A third of the unions at the most is reserved for the unseen clients: it occurs in no training client. The other
    unions are held by about the same number of training clients each, and every group occurs in one of them.

    Raises:
        SettingsError: `labels_per_client` fits no number of groups between 2 and M - 1, too few clients to cover the
            groups, or a label with fewer samples than holders.
    """
    per_client = _groups_per_client(deal)
    reserved, trained = _unions(deal, per_client)
    held = list(islice(cycle(trained), deal.num_clients))
    uncovered = set(range(len(deal.groups))) - {group for union in held for group in union}
    if uncovered:
        raise SettingsError(
            f"every label group must occur in a training client, but {deal.num_clients} normal clients of {per_client} "
            f"groups leave {len(uncovered)} of the {len(deal.groups)} groups out; hint: raise clients.num"
        )
    train = _deal_groups(held, deal)
    unseen, notes = unseen_of([_labels(union, deal) for union in reserved], deal)
    if len({len(group) for group in deal.groups}) > 1:
        k = deal.labels_per_client
        notes += (f"label groups differ in size: a client holds {per_client} groups, not always {k} labels",)
    return Shares(train=train, unseen=unseen, notes=notes)


def _groups_per_client(deal: Deal) -> int:
    groups = len(deal.groups)
    size = deal.num_classes // groups
    fitting = [size * count for count in range(2, groups)] if size else []
    if deal.labels_per_client not in fitting:
        least = f"experts.num from 3 to {deal.num_classes}, or another clients.partition"
        fit = f"clients.labels-per-client={' or '.join(map(str, fitting))}" if fitting else least
        raise SettingsError(
            f"clients.labels-per-client must make whole label groups, at least 2 of them but not all, where the "
            f"partition is 'aligned', got {deal.labels_per_client} with {groups} groups of {size} labels; hint: {fit}"
        )
    return deal.labels_per_client // size


def _unions(deal: Deal, per_client: int) -> tuple[list[LabelSet], list[LabelSet]]:
    """Returns unions as sets of group numbers: those reserved for unseen clients, and those for training."""
    groups = range(len(deal.groups))
    most = max(2_000, 4 * (deal.num_clients + deal.num_unseen))
    unions = draw_sets(most, groups, per_client, (), numpy_stream(deal.seed, "unions"))
    uses = np.bincount(np.array(unions).ravel(), minlength=len(groups))
    # A group keeps half of its unions: none is left to the unseen clients alone, and none becomes rare in training.
    spare = uses // 2
    room = min(deal.num_unseen, len(unions) // RESERVED)
    reserved: list[LabelSet] = []
    for union in unions:
        if len(reserved) < room and all(spare[group] > 0 for group in union):
            spare[list(union)] -= 1
            reserved.append(union)
    kept = set(reserved)
    return reserved, _covering_first([union for union in unions if union not in kept])


def _covering_first(unions: list[LabelSet]) -> list[LabelSet]:
    """Returns the unions so ordered that a few at the front hold all groups: few clients then train them all."""
    missing = {group for union in unions for group in union}
    front: list[LabelSet] = []
    while missing:
        best = max(unions, key=lambda union: len(missing.intersection(union)))
        front.append(best)
        missing.difference_update(best)
    chosen = set(front)
    return front + [union for union in unions if union not in chosen]


def _deal_groups(held: list[LabelSet], deal: Deal) -> tuple[Ids, ...]:
    """Returns each client's samples: those of each label are dealt evenly, at random, to the clients that hold it."""
    holders: list[list[int]] = [[] for _ in deal.groups]
    for client, union in enumerate(held):
        for group in union:
            holders[group].append(client)
    parts: list[list[Ids]] = [[] for _ in held]
    for group, labels in enumerate(deal.groups):
        for label in labels:
            ids = deal.train_ids[deal.labels_N[deal.train_ids] == label]
            if len(ids) < len(holders[group]):
                raise SettingsError(
                    f"label {label} must have a sample for each of the {len(holders[group])} clients that hold it, "
                    f"got {len(ids)}; hint: a smaller clients.num, clients.labels-per-client or data.public-samples"
                )
            # The first parts are larger by one sample: they start at another holder for each label.
            stream = numpy_stream(deal.seed, "label", label)
            order = stream.permutation(holders[group])
            for client, part in zip(order, np.array_split(stream.permutation(ids), len(order)), strict=True):
                parts[client].append(part)
    return tuple(np.sort(np.concatenate(part)) for part in parts)


def _labels(union: LabelSet, deal: Deal) -> LabelSet:
    return tuple(sorted(label for group in union for label in deal.groups[group]))
