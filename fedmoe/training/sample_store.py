"""All samples of a run: what is asked for, and nothing else, is read and brought onto the device."""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import one_hot

from fedmoe.data.contracts import Dataset, Ids
from fedmoe.data.embeddings import EmbeddingTable
from fedmoe.data.fingerprints import Fingerprints
from fedmoe.data.population import Population
from fedmoe.training.attack import Span
from fedmoe.training.looks import Looks
from fedmoe.training.samples import ClientSamples, Lots, normalised

__all__ = ["SampleStore", "channel_statistics", "read_by_experts"]


def channel_statistics(images_NCHW: NDArray[np.uint8], ids: Ids) -> tuple[Tensor, Tensor]:
    """Returns mean and standard deviation (at least 1) of each channel in [0, 255], over 5,000 of the samples `ids`.

    They are taken at even steps, for data sets may be sorted by class.
    """
    step = max(1, -(-len(ids) // 5000))
    pixels = np.asarray(images_NCHW[np.sort(ids)[::step]], dtype=np.float64)
    mean, std = pixels.mean(axis=(0, 2, 3)), pixels.std(axis=(0, 2, 3))
    return torch.tensor(mean, dtype=torch.float32), torch.tensor(std, dtype=torch.float32).clamp_min(1.0)


def read_by_experts(
    reads: str, images_NCHW: NDArray[np.uint8], embeddings_ND: NDArray[np.float32]
) -> NDArray[np.uint8] | NDArray[np.float32]:
    """Returns what experts read of the samples: the images, or a view of the embeddings as one pixel of D channels.

    Args:
        reads: `Expert.reads`.
        images_NCHW: uint8.
        embeddings_ND: the common expert's.

    Raises:
        ValueError: an expert cannot read that.
    """
    if reads == "image":
        return images_NCHW
    if reads != "embedding":
        raise ValueError(f"an expert reads 'image' or 'embedding', got '{reads}'")
    return embeddings_ND[:, :, None, None]


@dataclass(frozen=True, kw_only=True)
class SampleStore:
    """All samples; what is asked for, and nothing else, is read and brought onto the device.

    They are memory-mapped. On a GPU with room enough each array is moved there once, at its first use.

    Attributes:
        images: uint8, or what else the experts read (`read_by_experts`), by sample id.
        labels: int64, by sample id.
        embeddings: the common expert's embeddings, by sample id.
        logits: the common expert's logits, by sample id.
        groups: group of each sample, by id.
        num_groups: number of groups.
        mean: per-channel mean of `images`; 0 of embeddings, on which the common expert's head stands as it is.
        std: per-channel standard deviation; 1 of embeddings.
        device: where tensors go.
        public_ids: the public split, on which fingerprints stand.
        pictures: the images, by sample id, whatever the experts read; their looks tell fingerprints.
        resident: whether whole arrays stay on the device.
    """

    images: NDArray[np.uint8] | NDArray[np.float32]
    labels: NDArray[np.int64]
    embeddings: NDArray[np.float32]
    logits: NDArray[np.float32]
    groups: NDArray[np.int64]
    num_groups: int
    mean: Tensor
    std: Tensor
    device: torch.device
    public_ids: Ids = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    pictures: NDArray[np.uint8] = field(default_factory=lambda: np.empty((0, 1, 1, 1), dtype=np.uint8))
    resident: bool = False
    placed: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def of(
        cls,
        dataset: Dataset,
        population: Population,
        table: EmbeddingTable,
        device: torch.device,
        reads: str = "image",
    ) -> "SampleStore":
        """Returns the store of a run's data; images are normalised by the public split's statistics.

        Args:
            dataset: all samples.
            population: who holds which.
            table: what the common expert says of them.
            device: where tensors go.
            reads: what the experts read (`Expert.reads`).
        """
        images = read_by_experts(reads, dataset.x_NCHW, table.embeddings)
        if images is dataset.x_NCHW:
            mean, std = channel_statistics(dataset.x_NCHW, population.public_ids)
        else:
            mean, std = torch.zeros(images.shape[1]), torch.ones(images.shape[1])
        arrays = (images, population.labels_N, table.embeddings, table.logits)
        return cls(
            images=images,
            labels=population.labels_N,
            embeddings=table.embeddings,
            logits=table.logits,
            groups=population.group_N,
            num_groups=max(len(population.groups), len(population.domains)),
            mean=mean,
            std=std,
            device=device,
            public_ids=population.public_ids,
            pictures=dataset.x_NCHW,
            resident=has_room(device, sum(array.nbytes for array in arrays)),
        )

    @property
    def span(self) -> Span | None:
        """Returns what normalised pixels may be, on the device; `None` where the experts do not read images."""
        if self.images.dtype != np.uint8:
            return None
        low_C11, high_C11 = (((value - self.mean) / self.std).view(-1, 1, 1).to(self.device) for value in (0.0, 255.0))
        return Span(low_C11, high_C11)

    @property
    def in_shape(self) -> tuple[int, int, int]:
        """Returns channels, height and width of one of the experts' inputs."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    def load(
        self, ids: Ids, reads: str | None = "embedding", lots: Lots | None = None, *, common: bool = False
    ) -> ClientSamples:
        """Returns the samples `ids`, in that order.

        Args:
            ids: sample ids.
            reads: what the gate reads (`Gate.reads`); `None`: there is no gate.
            lots: what is drawn for a gate that reads lots, or comes with some.
            common: whether the common expert's logits are wanted too.

        Raises:
            ValueError: a gate cannot read that, or it reads lots and none are given.
        """
        return ClientSamples(
            images=self._take("images", ids),
            y=self.y(ids),
            gate_input=self.gate_input(ids, reads, lots),
            common=self.common_logits(ids) if common else torch.empty(len(ids), 0, device=self.device),
            mean=self.mean.view(-1, 1, 1).to(self.device),
            std=self.std.view(-1, 1, 1).to(self.device),
        )

    def y(self, ids: Ids) -> Tensor:
        """Returns the labels of the samples `ids`, int64."""
        return self._take("labels", ids)

    def common_logits(self, ids: Ids) -> Tensor:
        """Returns the common expert's logits of the samples `ids`, shape (len(ids), classes)."""
        return self._take("logits", ids)

    def gate_input(self, ids: Ids, reads: str | None, lots: Lots | None = None) -> Tensor:
        """Returns what the gate reads of the samples `ids`, shape (len(ids), D); no image is touched unless it does.

        Numbers drawn for the gate, where there are some, follow it.

        Raises:
            ValueError: a gate cannot read that, or it reads lots and none are given.
        """
        read = self._read(ids, reads, lots)
        if lots is None or not lots.draws:
            return read
        if reads == "lot":
            raise ValueError(f"a gate that reads lots has them already, got draws={lots.draws}; hint: draws = 0")
        return torch.cat([read, lots.numbers(len(ids)).to(self.device)], dim=1)

    def _read(self, ids: Ids, reads: str | None, lots: Lots | None) -> Tensor:
        if reads is None:
            return torch.empty(len(ids), 0, device=self.device)
        if reads == "embedding":
            return self._take("embeddings", ids)
        if reads == "group":
            return one_hot(self._take("groups", ids), self.num_groups).float()
        if reads == "fingerprint":
            if len(ids) and not 0 <= ids.min() <= ids.max() < len(self.embeddings):
                raise IndexError(f"sample ids must lie in [0, {len(self.embeddings)}), got {ids.min()} .. {ids.max()}")
            return self.fingerprint_of(self.pictures[ids], self.logits[ids]).to(self.device)
        if reads == "image":
            mean, std = (part.view(-1, 1, 1).to(self.device) for part in (self.mean, self.std))
            return normalised(self._take("images", ids), mean, std).flatten(1)
        if reads != "lot":
            raise ValueError(f"a gate reads 'embedding', 'fingerprint', 'group', 'image' or 'lot', got '{reads}'")
        if lots is None:
            raise ValueError("a gate that reads lots needs them drawn; hint: load(ids, 'lot', Lots(seed, num_experts))")
        return lots.draw(len(ids)).to(self.device)

    def gate_width(self, reads: str, num_experts: int) -> int:
        """Returns D, the width of what the gate of a pool of `num_experts` reads."""
        if reads == "lot":
            return num_experts
        if reads == "image":
            return int(np.prod(self.images.shape[1:]))
        if reads == "fingerprint":
            return self.looks.width
        return self.num_groups if reads == "group" else int(self.embeddings.shape[1])

    def fingerprint_of(self, images_NCHW: NDArray[np.uint8], logits_NC: NDArray[np.float32]) -> Tensor:
        """Returns the fingerprints of images, float32 (N, D).

        Args:
            images_NCHW: as the run's.
            logits_NC: what the common expert says of them.
        """
        return torch.from_numpy(self.fingerprints.of(self.looks.of(images_NCHW), logits_NC))

    @cached_property
    def looks(self) -> Looks:
        """Returns the map from images to what they look like."""
        channels, height, width = self.pictures.shape[1:]
        return Looks(*channel_statistics(self.pictures, self.public_ids), (channels, height, width))

    @cached_property
    def fingerprints(self) -> Fingerprints:
        """Returns the map from what images look like to fingerprints."""
        return Fingerprints.fitted(self.looks.of(self.pictures[self.public_ids]), self.logits[self.public_ids])

    def _take(self, name: str, ids: Ids) -> Tensor:
        array = getattr(self, name)
        if not self.resident:
            if len(ids) and not 0 <= ids.min() <= ids.max() < len(array):
                raise IndexError(f"sample ids must lie in [0, {len(array)}), got {ids.min()} .. {ids.max()}")
            # Into torch's own memory, which is aligned alike each time: the last bit of a product depends on it.
            taken = torch.empty((len(ids), *array.shape[1:]), dtype=torch.from_numpy(array[:0].copy()).dtype)
            np.take(array, ids, axis=0, out=taken.numpy(), mode="clip")  # in any other mode it goes through a buffer
            return taken.to(self.device)
        if name not in self.placed:
            self.placed[name] = torch.tensor(np.asarray(array), device=self.device)
        return self.placed[name][torch.tensor(ids, device=self.device)]


def has_room(device: torch.device, num_bytes: int) -> bool:
    """Returns whether arrays of this size shall stay on the device: on a GPU, up to half of the memory that is free."""
    return device.type == "cuda" and num_bytes <= torch.cuda.mem_get_info(device)[0] // 2
