"""The domain partition (feature shift): each client lives in one domain; inside a domain labels are IID."""

import numpy as np

from fedmoe.data.contracts import Deal, Ids, Shares
from fedmoe.data.partitioner import partitioner_seed, split
from fedmoe.errors import SettingsError
from fedmoe.seeding import numpy_stream

__all__ = ["domain"]


def domain(deal: Deal) -> Shares:
    """Returns shares that lie in one domain each, the domains spread over the clients as evenly as possible.

    Unseen clients live in one domain each as well: one that training has, with test samples of its own.

    Raises:
        SettingsError: there are no domains, or a domain has fewer samples than clients.
    """
    if deal.domain_N is None:
        raise SettingsError(
            "the partition 'domain' needs a domain of every sample, got none; hint: clients.partition='domain'"
        )
    domains = int(deal.domain_N.max()) + 1
    train = _in_domains(deal, "train", deal.train_ids, deal.num_clients, domains)
    unseen = _in_domains(deal, "unseen", deal.test_ids, deal.num_unseen, domains)
    notes = [
        "domain: an unseen client lives in one of the training domains, with samples that took no part in training"
    ]
    for kind, num in (("normal training", deal.num_clients), ("unseen", deal.num_unseen)):
        if num < domains:
            notes.append(f"{num} {kind} clients are fewer than the {domains} domains: some domains have none of them")
    return Shares(train=train, unseen=unseen, notes=tuple(notes))


def _in_domains(deal: Deal, kind: str, ids: Ids, num_clients: int, domains: int) -> tuple[Ids, ...]:
    from flwr_datasets.partitioner import IidPartitioner

    assert deal.domain_N is not None
    order = numpy_stream(deal.seed, "domains of clients", kind).permutation(domains)
    home = order[np.arange(num_clients) % domains]
    shares: dict[int, Ids] = {}
    for index in range(domains):
        members = np.flatnonzero(home == index).tolist()
        if members:
            inside = ids[deal.domain_N[ids] == index]
            hint = "fewer clients.num, clients.unseen or clients.domains, or a smaller data.public-samples"
            seed = partitioner_seed(deal, kind, index)
            parts = split(IidPartitioner(len(members)), len(members), inside, {}, seed=seed, hint=hint)
            shares.update(zip(members, parts, strict=True))
    return tuple(shares[client] for client in range(num_clients))
