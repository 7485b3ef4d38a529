"""Samples as tensors, for one client at a time: inputs, labels, what the gate reads, the common expert's logits."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

__all__ = ["ClientSamples", "Lots", "normalised"]

CLIENT_SHARE = 0.25  # how much a client's lot counts beside a sample's: enough to decide a mean over 100 samples


def normalised(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Returns images (N, channels, height, width) as float32, less the mean and over the deviation: a copy."""
    # `float()` would hand out embeddings themselves, to be overwritten.
    return images.to(torch.float32, copy=True).sub_(mean).div_(std)


@dataclass(frozen=True)
class Lots:
    """What falls by lot for a gate: of one client, of a stream of its own.

    Attributes:
        seed: of the stream; one a client and round.
        num_experts: M.
        draws: numbers that each sample comes with beside what the gate reads (`Gate.draws`).
    """

    seed: int
    num_experts: int
    draws: int = 0

    def numbers(self, num_samples: int) -> Tensor:
        """Returns numbers drawn evenly from [0, 1), shape (num_samples, draws)."""
        return torch.rand(num_samples, self.draws, generator=torch.Generator().manual_seed(self.seed))

    def draw(self, num_samples: int) -> Tensor:
        """Returns lots in [0, 1.25), shape (num_samples, M): a sample's for each expert, plus a share of the client's.

        So a client is ranked by lot, and each of its samples falls on an expert by lot, on the client's favourite a
        little more often.
        """
        stream = torch.Generator().manual_seed(self.seed)
        own_M = torch.rand(self.num_experts, generator=stream)
        return torch.rand(num_samples, self.num_experts, generator=stream) + CLIENT_SHARE * own_M


@dataclass(frozen=True)
class ClientSamples:
    """One client's samples on the device.

    Attributes:
        images: uint8 (N, channels, height, width), or what else the experts read (`read_by_experts`).
        y: int64 labels.
        gate_input: (N, D) float; D is 0 where no gate reads.
        mean: per-channel mean for `inputs`, shape (channels, 1, 1).
        std: likewise.
        common: the common expert's class logits (N, C) where a gate falls back to it; else C is 0.
        lots: numbers that each sample comes with for the experts (N, L), where they take any (`Expert.draws`).
    """

    images: Tensor
    y: Tensor
    gate_input: Tensor
    mean: Tensor
    std: Tensor
    common: Tensor = field(default_factory=lambda: torch.empty(0))
    lots: Tensor = field(default_factory=lambda: torch.empty(0))

    def __post_init__(self) -> None:
        for name in ("common", "lots"):
            if not getattr(self, name).numel():
                object.__setattr__(self, name, torch.empty(len(self.y), 0, device=self.y.device))

    @classmethod
    def joined(cls, clients: "Sequence[ClientSamples]") -> "ClientSamples":
        """Returns the samples of several clients as if they were one's, client after client.

        Raises:
            ValueError: one of them has no sample.
        """
        if not all(len(own) for own in clients):
            raise ValueError("a client must have a sample at least")
        parts = {
            name: torch.cat([getattr(own, name) for own in clients]) for name in ("images", "y", "gate_input", "common")
        }
        return cls(**parts, mean=clients[0].mean, std=clients[0].std)

    def __len__(self) -> int:
        return len(self.y)

    def inputs(self, rows: Tensor | slice) -> Tensor:
        """Returns the normalised float inputs of some rows, a copy."""
        # `index_select` copies whole images, 15 times as fast on a CPU as `images[rows]`, which goes pixel by pixel.
        images = self.images.index_select(0, rows) if isinstance(rows, Tensor) else self.images[rows]
        return normalised(images, self.mean, self.std)
