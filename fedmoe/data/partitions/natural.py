"""The natural partition: a client is one owner of samples in the data (a writer, a device)."""

import numpy as np

from fedmoe.data.contracts import Deal, Ids, Shares
from fedmoe.data.holdings import Holdings
from fedmoe.data.partitioner import partitioner_seed, split
from fedmoe.errors import SettingsError
from fedmoe.seeding import numpy_stream

__all__ = ["natural"]


def natural(deal: Deal) -> Shares:
    """Returns one owner's samples a client, the owners drawn at random; unseen clients are owners that never train.

    Unseen owners are chosen first, from those without a training sample as far as there are enough; what the others
    have in the training pool is dealt to no normal client.

    Raises:
        SettingsError: the data names no owners, or too few.
    """
    if deal.natural_N is None:
        raise SettingsError(
            "the partition 'natural' needs data that names the owner of each sample (natural_N), got none; "
            "hint: another clients.partition ('random-labels', 'dirichlet'), or data with owners"
        )
    stream = numpy_stream(deal.seed, "owners")
    training = stream.permutation(np.unique(deal.natural_N[deal.train_ids]))
    tested = stream.permutation(np.unique(deal.natural_N[deal.test_ids]))
    fresh_first = tested[np.argsort(np.isin(tested, training), kind="stable")]
    chosen = fresh_first[: deal.num_unseen]
    left = training[~np.isin(training, chosen)]
    if len(chosen) < deal.num_unseen or len(left) < deal.num_clients:
        raise SettingsError(
            f"each client needs an owner of its own: {deal.num_unseen} unseen and {deal.num_clients} normal training "
            f"clients, got {len(tested)} owners in the test pool and, beside the unseen clients', {len(left)} in the "
            f"training pool; hint: clients.unseen at most {len(tested)}, or fewer clients.num"
        )
    notes = ["natural: an unseen client is an owner that no normal training client is, with its test samples"]
    if len(left) > deal.num_clients:
        notes.append(f"natural: {len(left) - deal.num_clients} owners in the training pool are no client's")
    return Shares(
        train=_of_owners(deal, deal.train_ids, left[: deal.num_clients]),
        unseen=_of_owners(deal, deal.test_ids, chosen),
        notes=tuple(notes),
    )


def _of_owners(deal: Deal, ids: Ids, owners: Ids) -> Holdings:
    """Returns the samples of each owner, in the order of the owners' names."""
    from flwr_datasets.partitioner import GroupedNaturalIdPartitioner

    assert deal.natural_N is not None
    # Groups of one, and not `NaturalIdPartitioner`, which draws a progress bar on the terminal.
    partitioner = GroupedNaturalIdPartitioner("owner", group_size=1, sort_unique_ids=True)
    owned = ids[np.isin(deal.natural_N[ids], owners)]
    seed, hint = partitioner_seed(deal), "fewer clients.num"
    return split(partitioner, len(owners), owned, {"owner": deal.natural_N}, seed=seed, hint=hint)
