"""The Dirichlet partition: each label's samples fall on the clients in proportions drawn from Dirichlet(alpha)."""

import contextlib
from collections.abc import Iterator, Sequence

import numpy as np

from fedmoe.data.contracts import Deal, Ids, Shares
from fedmoe.data.holdings import Holdings, LabelSet
from fedmoe.data.novelty import label_sets
from fedmoe.data.partitioner import partitioner_seed, split
from fedmoe.errors import SettingsError
from fedmoe.seeding import numpy_stream

__all__ = ["dirichlet"]

# What a client should have at least; the draw is repeated (10 times, by flwr-datasets) until all have it.
SMALLEST = 10
# Above so many clients one draw stands: to say that it was in vain takes flwr-datasets clients x clients steps.
REDRAWN = 5_000
TEST_DRAWS = 30
TEST_PART = 50


def dirichlet(deal: Deal) -> Shares:
    """Returns shares with label proportions drawn from Dirichlet(alpha); unseen clients are drawn from the test pool.

    Where no draw gives every client a few samples (above 5,000 clients: where the first does not), one stands as it is,
    and clients left empty get a sample each.
    An unseen client is a part of such a draw of the test pool with a label combination that no training client has.

    Raises:
        SettingsError: fewer samples than clients, or no draw has enough new combinations for the unseen clients.
    """
    train, notes = _training(deal)
    unseen, unseen_notes = _unseen(deal, train)
    return Shares(train=train, unseen=unseen, notes=(*notes, *unseen_notes))


def _draw(deal: Deal, ids: Ids, parts: int, smallest: int, *path: str | int) -> Holdings:
    from flwr_datasets.partitioner import DirichletPartitioner

    seed = partitioner_seed(deal, *path)
    partitioner = DirichletPartitioner(
        num_partitions=parts,
        partition_by="label",
        alpha=float(deal.alpha),
        min_partition_size=smallest,
        self_balancing=False,
        shuffle=False,
        seed=seed,
    )
    hint = "fewer clients.num, a larger clients.alpha or a smaller data.public-samples"
    return split(partitioner, parts, ids, {"label": deal.labels_N}, seed=seed, hint=hint)


def _training(deal: Deal) -> tuple[Sequence[Ids], tuple[str, ...]]:
    num, samples = deal.num_clients, len(deal.train_ids)
    if samples < num:
        raise SettingsError(
            f"every client must get a sample, got {samples} for {num} normal training clients; hint: fewer clients.num"
        )
    if num <= REDRAWN:
        with contextlib.suppress(SettingsError):  # many clients or a small alpha: some are empty in every draw
            return _draw(deal, deal.train_ids, num, min(SMALLEST, samples // num), "train"), ()
    shares = list(_draw(deal, deal.train_ids, num, 0, "train"))
    empty = [client for client, share in enumerate(shares) if len(share) == 0]
    stream = numpy_stream(deal.seed, "filled")
    sizes = np.array([len(share) for share in shares])
    for client in empty:
        rich = int(sizes.argmax())
        shares[rich] = stream.permutation(shares[rich])
        shares[client], shares[rich] = shares[rich][:1], shares[rich][1:]
        sizes[client], sizes[rich] = 1, sizes[rich] - 1
    note = f"Dirichlet: the draw left {len(empty)} clients empty; each got one sample of the largest client's"
    return tuple(np.sort(share) for share in shares), (note,) if empty else ()


def _unseen(deal: Deal, train: Sequence[Ids]) -> tuple[tuple[Ids, ...], tuple[str, ...]]:
    taken = label_sets(train, deal)
    fresh: dict[LabelSet, Ids] = {}
    again: list[Ids] = []
    for share in _test_parts(deal):
        labels = tuple(np.unique(deal.labels_N[share]).tolist())
        if labels in taken:
            continue
        if labels in fresh:
            again.append(share)
        else:
            fresh[labels] = share
        if len(fresh) == deal.num_unseen:
            break
    found = (*fresh.values(), *again)[: deal.num_unseen]
    if len(found) < deal.num_unseen:
        raise SettingsError(
            f"an unseen client must hold a label combination that no training client has, but {TEST_DRAWS} Dirichlet "
            f"draws of the test pool with alpha {deal.alpha} gave {len(found)} such clients of {deal.num_unseen}; "
            "hint: a smaller clients.alpha (near-even draws hold all labels), fewer clients.unseen, or partition 'iid'"
        )
    if len(fresh) == deal.num_unseen:
        return found, ()
    return found, (
        f"Dirichlet: the {deal.num_unseen} unseen clients hold only {len(fresh)} different label combinations",
    )


def _test_parts(deal: Deal) -> Iterator[Ids]:
    """Yields parts of Dirichlet draws of the test pool, redrawn from one derived seed after the other."""
    samples = len(deal.test_ids)
    # As many parts as there are training clients give parts of their make-up; fewer where they would be too small.
    parts = max(deal.num_unseen, min(deal.num_clients, samples // TEST_PART))
    smallest = max(1, min(SMALLEST, samples // (4 * parts)))
    for attempt in range(TEST_DRAWS):
        for part in _draw(deal, deal.test_ids, parts, 0, "unseen", attempt):
            if len(part) >= smallest:
                yield part
