"""The IID partition: every client is a random sample of the whole data."""

from fedmoe.data.contracts import Deal, Shares
from fedmoe.data.partitioner import partitioner_seed, split

__all__ = ["iid"]


def iid(deal: Deal) -> Shares:
    """Returns shares of equal size (to within one sample) at random; the test pool is split alike over unseen clients.

    Raises:
        SettingsError: fewer samples than clients.
    """
    from flwr_datasets.partitioner import IidPartitioner

    hint = "fewer clients.num, or a smaller data.public-samples"
    seed = partitioner_seed(deal, "train")
    train = split(IidPartitioner(deal.num_clients), deal.num_clients, deal.train_ids, {}, seed=seed, hint=hint)
    seed = partitioner_seed(deal, "unseen")
    hint = "fewer clients.unseen"
    unseen = split(IidPartitioner(deal.num_unseen), deal.num_unseen, deal.test_ids, {}, seed=seed, hint=hint)
    note = "IID: unseen clients have samples that took no part in training, but the same labels as the training clients"
    return Shares(train=train, unseen=unseen, notes=(note,))
