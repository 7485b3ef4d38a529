"""The shards of McMahan et al. (arXiv 1602.05629): samples sorted by label, cut into shards, some to each client."""

from fedmoe.data.contracts import Deal, Shares
from fedmoe.data.novelty import unseen_with_novel_labels
from fedmoe.data.partitioner import partitioner_seed, split
from fedmoe.errors import SettingsError

__all__ = ["shards"]


def shards(deal: Deal) -> Shares:
    """Returns shares of `shards_per_client` shards each; a shard is one label's samples, or two neighbours'.

    All shards are of one size, so up to one sample a shard is dealt to nobody. An unseen client is all test samples of
    `shards_per_client` labels (all of them but one at the most) in a combination that no training client has.

    Raises:
        SettingsError: fewer samples than shards, or no combination left for the unseen clients.
    """
    from flwr_datasets.partitioner import ShardPartitioner

    wanted = deal.num_clients * deal.shards_per_client
    hint = "a smaller clients.num, clients.shards-per-client or data.public-samples"
    if len(deal.train_ids) < wanted:  # the partitioner would divide by zero
        raise SettingsError(
            f"every shard must get a sample, got {len(deal.train_ids)} for {wanted} shards; hint: {hint}"
        )
    partitioner = ShardPartitioner(
        num_partitions=deal.num_clients,
        partition_by="label",
        num_shards_per_partition=deal.shards_per_client,
        shuffle=False,
        seed=partitioner_seed(deal),
    )
    train = split(partitioner, deal.num_clients, deal.train_ids, {"label": deal.labels_N}, seed=deal.seed, hint=hint)
    size = max(1, min(deal.shards_per_client, deal.num_classes - 1))
    hint = (
        f"a clients.shards-per-client nearer to {max(2, deal.num_classes // 2)}, fewer clients.num, or 'random-labels'"
    )
    unseen, notes = unseen_with_novel_labels(deal, train, size, hint=hint)
    meaning = f"an unseen client is all test samples of {size} labels that no training client holds together"
    return Shares(train=train, unseen=unseen, notes=(meaning, *notes))
