"""What data sets and partitions hand over: plain frozen records of arrays.

A sample's *id* is its row in the whole data set, training samples first, then test samples: ids below `num_train`
are training samples. All that follows (clients, splits, embeddings) speaks of samples by id.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Dataset",
    "Deal",
    "Ids",
    "LoadRequest",
    "Loader",
    "Partition",
    "Shares",
    "is_over_domains",
    "over_domains",
]

Ids = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class LoadRequest:
    """What a data set's loader is told.

    Attributes:
        root: where data files are looked for (a folder, or an archive); `None`: fedmoe's own data folder.
        seed: root of the random streams; only procedurally generated data uses it.
        download_timeout: seconds without an answer before a download is given up.
    """

    root: str | None
    seed: int
    download_timeout: float


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A whole data set in memory (or memory-mapped).

    Attributes:
        name: as it shall be printed beside figures, `cifar10-jpeg` for example.
        real: False for generated data.
        x_NCHW: uint8 images, training samples first.
        y_N: int64 labels in [0, number of classes).
        num_train: samples below this row are the training pool, the others the test pool.
        class_names: one a label.
        natural_N: int64 natural owner of each sample (a writer, say) where the data has one, else `None`.
        domain_N: int64 domain of each sample, counted from 0, where the data comes in domains of its own, else `None`.
    """

    name: str
    real: bool
    x_NCHW: NDArray[np.uint8]
    y_N: NDArray[np.int64]
    num_train: int
    class_names: tuple[str, ...]
    natural_N: NDArray[np.int64] | None = None
    domain_N: NDArray[np.int64] | None = None


class Loader(Protocol):
    """A data set: one file in `fedmoe/data/datasets/`, or `"module:Attribute"`."""

    def __call__(self, request: LoadRequest) -> Dataset:
        """Returns the data set; raises `DataError` when its files are missing or broken."""
        ...


@dataclass(frozen=True, kw_only=True)
class Deal:
    """What a partition is told.

    Attributes:
        labels_N: label of every sample of the whole data set, by id.
        train_ids: samples to deal to the normal training clients (public and anchor samples are already gone).
        test_ids: samples for the unseen clients.
        num_clients: normal training clients.
        num_unseen: unseen clients.
        num_classes: number of labels.
        groups: anchor label groups, disjoint, covering all labels: one a expert.
        labels_per_client: labels that a client shall hold.
        alpha: Dirichlet concentration.
        shards_per_client: shards that a client shall hold.
        domain_N: domain of every sample by id, or `None` where there are no domains.
        natural_N: natural owner of every sample by id, or `None`.
        seed: root of this partition's random streams.
    """

    labels_N: NDArray[np.int64]
    train_ids: Ids
    test_ids: Ids
    num_clients: int
    num_unseen: int
    num_classes: int
    groups: tuple[tuple[int, ...], ...]
    labels_per_client: int
    alpha: float
    shards_per_client: int
    domain_N: NDArray[np.int64] | None
    natural_N: NDArray[np.int64] | None
    seed: int


@dataclass(frozen=True, kw_only=True)
class Shares:
    """Who holds what: sample ids of each normal training client and of each unseen client.

    Training shares are disjoint. Unseen clients draw on the test pool and may share test samples with each other.
    """

    train: Sequence[Ids]
    unseen: Sequence[Ids]
    notes: tuple[str, ...] = field(default=())


class Partition(Protocol):
    """A partition: one file in `fedmoe/data/partitions/`, or `"module:Attribute"`."""

    def __call__(self, deal: Deal) -> Shares:
        """Returns the shares; same deal, same shares. Raises `SettingsError` when the deal cannot be met."""
        ...


def over_domains(partition: Callable[[Deal], Shares]) -> Callable[[Deal], Shares]:
    """Marks a partition whose clients live in domains: those of `clients.domains`, or the data's own."""
    setattr(partition, "over_domains", True)  # noqa: B010, an attribute that functions do not have
    return partition


def is_over_domains(partition: Partition) -> bool:
    """Returns whether the partition's clients live in domains.

    >>> is_over_domains(over_domains(lambda deal: Shares(train=(), unseen=())))
    True
    """
    return bool(getattr(partition, "over_domains", False))
