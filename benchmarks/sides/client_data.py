"""A peer's samples: one pair of tensors a client, normalised floats in memory, so that no peer waits for its data."""

import torch
from torch import Tensor

from benchmarks.workloads import Work, images_and_labels

__all__ = ["client_tensors"]


def client_tensors(work: Work) -> list[tuple[Tensor, Tensor]]:
    """Returns (inputs, labels) of each client; inputs are float32 with mean 0 and standard deviation 1 a channel."""
    images, labels = images_and_labels(work, work.samples_per_round)
    x = torch.from_numpy(images).float()
    x = (x - x.mean(dim=(0, 2, 3), keepdim=True)) / x.std(dim=(0, 2, 3), keepdim=True)
    y = torch.from_numpy(labels)
    return list(zip(torch.split(x, work.samples), torch.split(y, work.samples), strict=True))
