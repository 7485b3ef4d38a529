"""The domain partition (feature shift): each client lives in one domain; inside a domain labels are IID."""

import numpy as np
from numpy.typing import NDArray

from fedmoe.data.contracts import Deal, Ids, Shares, over_domains
from fedmoe.data.partitioner import partitioner_seed, split
from fedmoe.errors import SettingsError
from fedmoe.seeding import numpy_stream

__all__ = ["domain"]


@over_domains
def domain(deal: Deal) -> Shares:
    """Returns shares that lie in one domain each, the domains spread over the clients as evenly as possible.

    Unseen clients live in one domain each as well: one that training has, with test samples of its own.

    Raises:
        SettingsError: there are no domains, or a domain has fewer samples than clients.
    """
    train = _in_domains(deal, "train", deal.train_ids, deal.num_clients)
    unseen = _in_domains(deal, "unseen", deal.test_ids, deal.num_unseen)
    domains = _number(deal)
    notes = [
        "domain: an unseen client lives in one of the training domains, with samples that took no part in training"
    ]
    for kind, num in (("normal training", deal.num_clients), ("unseen", deal.num_unseen)):
        if num < domains:
            notes.append(f"{num} {kind} clients are fewer than the {domains} domains: some domains have none of them")
    return Shares(train=train, unseen=unseen, notes=tuple(notes))


def homes(deal: Deal, kind: str, num_clients: int) -> NDArray[np.int64]:
    """Returns the domain that each client lives in, spread as evenly as possible, by lot.

    Args:
        deal: what is to be dealt.
        kind: which clients: `"train"` or `"unseen"`.
        num_clients: how many there are.

    Raises:
        SettingsError: there are no domains.
    """
    domains = _number(deal)
    order = numpy_stream(deal.seed, "domains of clients", kind).permutation(domains)
    home: NDArray[np.int64] = order[np.arange(num_clients) % domains]
    return home


def _number(deal: Deal) -> int:
    if deal.domain_N is None:
        raise SettingsError(
            "a partition over domains needs a domain of every sample, got none; hint: clients.partition='domain'"
        )
    return int(deal.domain_N.max()) + 1


def _in_domains(deal: Deal, kind: str, ids: Ids, num_clients: int) -> tuple[Ids, ...]:
    from flwr_datasets.partitioner import IidPartitioner

    home = homes(deal, kind, num_clients)
    assert deal.domain_N is not None
    shares: dict[int, Ids] = {}
    for index in range(_number(deal)):
        members = np.flatnonzero(home == index).tolist()
        if members:
            inside = ids[deal.domain_N[ids] == index]
            hint = "fewer clients.num, clients.unseen or clients.domains, or a smaller data.public-samples"
            seed = partitioner_seed(deal, kind, index)
            parts = split(IidPartitioner(len(members)), len(members), inside, {}, seed=seed, hint=hint)
            shares.update(zip(members, parts, strict=True))
    return tuple(shares[client] for client in range(num_clients))
