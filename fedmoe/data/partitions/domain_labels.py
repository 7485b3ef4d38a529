"""Feature shift and label skew at once: each client lives in one domain, and holds k random labels of it."""

from dataclasses import replace

import numpy as np

from fedmoe.data.contracts import Deal, Ids, Shares, over_domains
from fedmoe.data.k_labels import deal_k_labels
from fedmoe.data.partitions.domain import homes
from fedmoe.seeding import derive_seed

__all__ = ["domain_labels"]


@over_domains
def domain_labels(deal: Deal) -> Shares:
    """Returns shares that lie in one domain each, with `labels_per_client` random labels of that domain's samples.

    Inside a domain it is the partition `random-labels`: an unseen client holds a combination of labels that no training
    client of its domain has.

    Raises:
        SettingsError: there are no domains, or a domain's samples cannot be dealt out so.
    """
    home, home_unseen = homes(deal, "train", deal.num_clients), homes(deal, "unseen", deal.num_unseen)
    assert deal.domain_N is not None
    train: dict[int, Ids] = {}
    unseen: dict[int, Ids] = {}
    notes: list[str] = []
    for index in np.unique(np.concatenate([home, home_unseen])).tolist():
        members, guests = np.flatnonzero(home == index).tolist(), np.flatnonzero(home_unseen == index).tolist()
        inside = replace(
            deal,
            train_ids=deal.train_ids[deal.domain_N[deal.train_ids] == index],
            test_ids=deal.test_ids[deal.domain_N[deal.test_ids] == index],
            num_clients=len(members),
            num_unseen=max(1, len(guests)),
            seed=derive_seed(deal.seed, "domain", index),
        )
        shares = deal_k_labels(inside, "random")
        train.update(zip(members, shares.train, strict=True))
        unseen.update(zip(guests, shares.unseen, strict=False))  # one was dealt where nobody unseen lives
        notes += [f"domain {index}: {note}" for note in shares.notes]
    return Shares(
        train=tuple(train[client] for client in range(deal.num_clients)),
        unseen=tuple(unseen[client] for client in range(deal.num_unseen)),
        notes=tuple(notes),
    )
