"""The works that sides do, as data: who holds how many samples of which shape, which network, how it is trained.

Nothing here imports torch or fedmoe: a peer's process must come up as its users' processes do (fedmoe, as it is
imported, sets an environment variable that torch's threads read).
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

__all__ = ["WORKS", "Work", "images_and_labels", "work_named"]

SEED = 11  # of the generated samples: the same for every side, run and machine


@dataclass(frozen=True, kw_only=True)
class Work:
    """One round of federated training: every client, one epoch over its samples each.

    Attributes:
        name: as it is asked for on the command line.
        title: as it is printed.
        clients: clients, all of them in each round.
        samples: samples of each client.
        shape: channels, height, width of a sample.
        classes: labels.
        network: `perceptron`, `cnn` or `resnet8` (`benchmarks.networks`).
        learning_rate: of the network's SGD.
        momentum: of all SGD.
        batch_size: samples a step.
        precision: `fp32` or `bf16`: of our side and of the centralised floor; a peer uses what its side's name says.
        experts: M; 1: federated averaging of one network, more: a FedJETs round with as many anchors.
        top_k: K, experts that a normal client holds.
        gate_hidden: hidden units of the gate.
        gate_learning_rate: of the gate's SGD.
        sides: who does it unless `--sides` says otherwise.
        toy: whether it is the very small one.
    """

    name: str
    title: str
    clients: int
    samples: int
    shape: tuple[int, int, int]
    classes: int
    network: str
    learning_rate: float
    momentum: float = 0.0
    batch_size: int = 32
    precision: str = "fp32"
    experts: int = 1
    top_k: int = 1
    gate_hidden: int = 64
    gate_learning_rate: float = 0.05
    sides: tuple[str, ...]
    toy: bool = False

    @property
    def is_mixture(self) -> bool:
        """Whether it is a FedJETs round, rather than one of federated averaging."""
        return self.experts > 1

    @property
    def samples_per_round(self) -> int:
        """Samples trained on in a round; each counts once, whatever K is."""
        return self.clients * self.samples


OURS = ("fedmoe", "fedmoe-process", "fedmoe-loop")
W1 = Work(
    name="w1",
    title="W1: 100 clients x 160 samples, perceptron 64-128-10, federated averaging",
    clients=100,
    samples=160,
    shape=(1, 8, 8),
    classes=10,
    network="perceptron",
    learning_rate=0.05,
    sides=(*OURS, "fedmoe-compiled", "flower", "pfl", "loop", "centralised"),
)
W2 = Work(
    name="w2",
    title="W2: 10 clients x 500 images 3x32x32, two 5x5 convolutions and 512 units, federated averaging, fp32",
    clients=10,
    samples=500,
    shape=(3, 32, 32),
    classes=100,
    network="cnn",
    learning_rate=0.05,
    sides=(*OURS, "fedmoe-usual", "flower", "pfl", "loop", "centralised", "centralised-contiguous"),
)
FJ_MLP = Work(
    name="fj-mlp",
    title="FJ-MLP: a FedJETs round, 5 anchors and 95 normal clients x 160 samples, perceptrons 64-128-10, K=2 of M=5",
    clients=100,
    samples=160,
    shape=(1, 8, 8),
    classes=10,
    network="perceptron",
    learning_rate=0.01,
    momentum=0.9,
    experts=5,
    top_k=2,
    sides=(*OURS, "fedmoe-compiled", "flower", "loop", "centralised"),
)
FJ_RESNET8 = Work(
    name="fj-resnet8",
    title="FJ-RESNET8: a FedJETs round, 5 anchors and 5 normal clients x 160 images 3x32x32, K=2 of M=5, fp32",
    clients=10,
    samples=160,
    shape=(3, 32, 32),
    classes=10,
    network="resnet8",
    learning_rate=0.01,
    momentum=0.9,
    experts=5,
    top_k=2,
    sides=(*OURS, "flower", "loop", "centralised", "centralised-contiguous"),
)
W2_BF16 = replace(
    W2,
    name="w2-bf16",
    title=W2.title.replace("fp32", "bf16 (ours, the floor and pfl-bf16; the others fp32)"),
    precision="bf16",
    sides=(*OURS, "fedmoe-usual", "flower", "pfl", "pfl-bf16", "loop", "centralised", "centralised-contiguous"),
)
FJ_RESNET8_BF16 = replace(
    FJ_RESNET8,
    name="fj-resnet8-bf16",
    title=FJ_RESNET8.title.replace("fp32", "bf16 (ours and the floor; the others fp32)"),
    precision="bf16",
)
WORKS = {work.name: work for work in (W1, W2, W2_BF16, FJ_MLP, FJ_RESNET8, FJ_RESNET8_BF16)}


def work_named(name: str, toy: bool = False) -> Work:
    """Returns the work, or with `toy` a very small one of the same kind, that says nothing about speed.

    >>> work_named("w1", toy=True).samples_per_round
    48

    Raises:
        ValueError: there is no such work.
    """
    if name not in WORKS:
        raise ValueError(f"a work must be one of {', '.join(WORKS)}, got '{name}'")
    work = WORKS[name]
    if not toy:
        return work
    experts = min(2, work.experts)  # with 4 clients no more: an anchor takes half of its label group at the most
    small = replace(work, clients=4, samples=12, shape=(work.shape[0], 8, 8), classes=4, batch_size=8, experts=experts)
    return replace(small, title=f"toy {name}", toy=True)


def images_and_labels(work: Work, count: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Returns `count` generated images (N, channels, height, width) and their labels, which go round and round.

    A sample is its class's picture under noise. The first samples are the same, however many are asked for.
    """
    pictures = np.random.default_rng([SEED, work.classes]).uniform(40, 215, (work.classes, *work.shape))
    noise = np.random.default_rng([SEED, work.classes, 1])
    y_N = np.arange(count) % work.classes
    x_NCHW = pictures[y_N] + noise.normal(0, 60, (count, *work.shape))
    return np.clip(x_NCHW, 0, 255).astype(np.uint8), y_N.astype(np.int64)
