"""A work as plug-ins of fedmoe: its data from a file, equal shares, and the network that fedmoe does not bring."""

from pathlib import Path

import numpy as np
from torch import Tensor, nn

from benchmarks.networks import convolutions
from benchmarks.workloads import Work, images_and_labels
from fedmoe.data.contracts import Dataset, Deal, LoadRequest, Shares
from fedmoe.moe.expert import Expert, ExpertSpec

__all__ = ["PooledConvolutions", "UsualOrder", "equal_shares", "load_arrays", "write_arrays"]


def write_arrays(work: Work, folder: Path) -> str:
    """Writes the work's images and labels; returns the file, for `data.root`.

    Beside the clients' samples: two a class for the common expert, and one a class for the unseen client.
    """
    num_train = work.samples_per_round + 2 * work.classes
    images, labels = images_and_labels(work, num_train + work.classes)
    file = folder / f"{work.name}{'-toy' if work.toy else ''}.npz"
    np.savez(file, images=images, labels=labels, num_train=num_train, classes=work.classes)
    return str(file)


def load_arrays(request: LoadRequest) -> Dataset:
    """Returns the data set that `write_arrays` wrote."""
    with np.load(str(request.root)) as arrays:
        return Dataset(
            name="benchmark",
            real=False,
            x_NCHW=arrays["images"],
            y_N=arrays["labels"],
            num_train=int(arrays["num_train"]),
            class_names=tuple(str(label) for label in range(int(arrays["classes"]))),
        )


def equal_shares(deal: Deal) -> Shares:
    """Returns as many samples for each client, in the order of their ids."""
    return Shares(train=tuple(np.array_split(deal.train_ids, deal.num_clients)), unseen=(deal.test_ids,))


class PooledConvolutions(Expert):
    """W2's network: two 5x5 convolutions (32 and 64 channels), each pooled, 512 units, a linear head."""

    def __init__(self, spec: ExpertSpec) -> None:
        super().__init__()
        self.embedding_dim = 512
        self.body = convolutions(spec.in_shape)
        self.head = nn.Linear(self.embedding_dim, spec.num_classes)

    def embed(self, x_BCHW: Tensor) -> Tensor:
        """Returns the 512 activations."""
        embedding_BD: Tensor = self.body(x_BCHW)
        return embedding_BD


class Layers(nn.Sequential):
    """Layers that fedmoe leaves in their order: it rearranges plain `nn.Sequential` alone."""


class UsualOrder(PooledConvolutions):
    """The same network with ReLU before pooling, as the peers run it."""

    def __init__(self, spec: ExpertSpec) -> None:
        super().__init__(spec)
        self.body = Layers(*convolutions(spec.in_shape))
