"""Shares of exactly k labels a client, through flwr-datasets' pathological partitioner."""

from typing import Literal

from fedmoe.data.contracts import Deal, Shares
from fedmoe.data.novelty import unseen_with_novel_labels
from fedmoe.data.partitioner import partitioner_seed, split
from fedmoe.errors import SettingsError

__all__ = ["deal_k_labels"]


def deal_k_labels(deal: Deal, mode: Literal["random", "deterministic"]) -> Shares:
    """Returns shares of `labels_per_client` labels each, a label's samples dealt evenly to the clients that hold it.

    An unseen client is all test samples of k labels that no training client holds together.

    Args:
        deal: what is to be dealt.
        mode: how labels fall on clients: at random, or client i the k labels from i on.

    Raises:
        SettingsError: more labels a client than there are, a label with fewer samples than holders, or no combination
            left for the unseen clients.
    """
    from flwr_datasets.partitioner import PathologicalPartitioner

    k, middle = deal.labels_per_client, max(2, deal.num_classes // 2)
    if k > deal.num_classes:
        raise SettingsError(
            f"clients.labels-per-client must be at most the number of labels, {deal.num_classes}, got {k}; "
            f"hint: {middle} leaves the unseen clients the most combinations"
        )
    partitioner = PathologicalPartitioner(
        num_partitions=deal.num_clients,
        partition_by="label",
        num_classes_per_partition=k,
        class_assignment_mode=mode,
        shuffle=False,
        seed=partitioner_seed(deal),
    )
    hint = "a smaller clients.num, clients.labels-per-client or data.public-samples"
    train = split(partitioner, deal.num_clients, deal.train_ids, {"label": deal.labels_N}, seed=deal.seed, hint=hint)
    hint = f"a clients.labels-per-client nearer to {middle}, fewer clients.num, or clients.partition='aligned'"
    unseen, notes = unseen_with_novel_labels(deal, train, k, hint=hint)
    return Shares(train=train, unseen=unseen, notes=notes)
