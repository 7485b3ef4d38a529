"""Samples as tensors, for one client at a time: inputs, labels, what the gate reads, the common expert's logits."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import one_hot

from fedmoe.data.contracts import Dataset, Ids
from fedmoe.data.embeddings import EmbeddingTable
from fedmoe.data.population import Population

__all__ = ["ClientSamples", "SampleStore", "channel_statistics"]


def channel_statistics(images_NCHW: NDArray[np.uint8], ids: Ids) -> tuple[Tensor, Tensor]:
    """Returns mean and standard deviation (at least 1) of each channel in [0, 255], over 5,000 of the samples `ids`.

    They are taken at even steps, for data sets may be sorted by class.
    """
    step = max(1, -(-len(ids) // 5000))
    pixels = np.asarray(images_NCHW[np.sort(ids)[::step]], dtype=np.float64)
    mean, std = pixels.mean(axis=(0, 2, 3)), pixels.std(axis=(0, 2, 3))
    return torch.tensor(mean, dtype=torch.float32), torch.tensor(std, dtype=torch.float32).clamp_min(1.0)


@dataclass(frozen=True)
class ClientSamples:
    """One client's samples on the device.

    Attributes:
        images: uint8 (N, channels, height, width).
        y: int64 labels.
        gate_input: (N, D) float.
        common_logits: (N, C) float.
        mean: per-channel mean for `inputs`, shape (channels, 1, 1).
        std: likewise.
    """

    images: Tensor
    y: Tensor
    gate_input: Tensor
    common_logits: Tensor
    mean: Tensor
    std: Tensor

    def __len__(self) -> int:
        return len(self.y)

    def inputs(self, rows: Tensor | slice) -> Tensor:
        """Returns the normalised float inputs of some rows."""
        return (self.images[rows].float() - self.mean) / self.std


@dataclass(frozen=True, kw_only=True)
class SampleStore:
    """All samples, memory-mapped; `load` brings a client's onto the device.

    Attributes:
        images: uint8, by sample id.
        labels: int64, by sample id.
        embeddings: the common expert's embeddings, by sample id.
        logits: the common expert's logits, by sample id.
        groups: group of each sample, by id.
        num_groups: number of groups.
        mean: per-channel mean.
        std: per-channel standard deviation.
        device: where tensors go.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    embeddings: NDArray[np.float32]
    logits: NDArray[np.float32]
    groups: NDArray[np.int64]
    num_groups: int
    mean: Tensor
    std: Tensor
    device: torch.device

    @classmethod
    def of(cls, dataset: Dataset, population: Population, table: EmbeddingTable, device: torch.device) -> "SampleStore":
        """Returns the store of a run's data; inputs are normalised by the public split's statistics."""
        mean, std = channel_statistics(dataset.x_NCHW, population.public_ids)
        return cls(
            images=dataset.x_NCHW,
            labels=population.labels_N,
            embeddings=table.embeddings,
            logits=table.logits,
            groups=population.group_N,
            num_groups=max(len(population.groups), len(population.domains)),
            mean=mean,
            std=std,
            device=device,
        )

    def load(self, ids: Ids, reads: str = "embedding") -> ClientSamples:
        """Returns the samples `ids`, in that order.

        Args:
            ids: sample ids.
            reads: what the gate reads (`Gate.reads`).
        """
        return ClientSamples(
            images=torch.tensor(self.images[ids], device=self.device),
            y=torch.tensor(self.labels[ids], device=self.device),
            gate_input=self.gate_input(ids, reads),
            common_logits=torch.tensor(self.logits[ids], device=self.device),
            mean=self.mean.view(-1, 1, 1).to(self.device),
            std=self.std.view(-1, 1, 1).to(self.device),
        )

    def gate_input(self, ids: Ids, reads: str) -> Tensor:
        """Returns what the gate reads of the samples `ids`: no image is touched for it.

        Raises:
            ValueError: `reads` is neither `"embedding"` nor `"group"`.
        """
        if reads == "embedding":
            # Copied into torch's own memory, which is aligned alike each time: the last bit of a product depends on it.
            return torch.tensor(self.embeddings[ids], device=self.device)
        if reads == "group":
            groups = torch.tensor(self.groups[ids])
            return one_hot(groups, self.num_groups).float().to(self.device)
        raise ValueError(f"a gate reads 'embedding' or 'group', got '{reads}'")

    def gate_width(self, reads: str) -> int:
        """Returns D, the width of what the gate reads."""
        return self.num_groups if reads == "group" else int(self.embeddings.shape[1])
