"""How a network becomes a common expert: trained, or its head alone, on nine tenths of the public split."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy

from fedmoe.data.contracts import Dataset, Ids
from fedmoe.moe.expert import Expert
from fedmoe.seeding import torch_stream
from fedmoe.settings import Settings
from fedmoe.training.pretrained import PretrainedExpert, fit_head
from fedmoe.training.sample_store import channel_statistics

__all__ = ["forward_all", "pretrain", "probe"]

PATIENCE = 10.0  # seconds after which a person wants to know how far it is


def pretrain(
    expert: Expert,
    settings: Settings,
    dataset: Dataset,
    public_ids: Ids,
    device: torch.device,
    tell: Callable[[str], None],
) -> dict[str, Any]:
    """Trains in place on nine tenths of the public split; returns the report (`CommonExpert.report`)."""
    common = settings.common_expert
    stream = torch_stream(settings.seed, "common expert", "batches")
    held_out, train_ids = _split(settings, public_ids)
    mean, std = (t.view(-1, 1, 1).to(device) for t in channel_statistics(dataset.x_NCHW, public_ids))
    x = torch.from_numpy(np.ascontiguousarray(dataset.x_NCHW[train_ids])).to(device)
    y = torch.from_numpy(np.ascontiguousarray(dataset.y_N[train_ids])).to(device)
    optimiser = torch.optim.SGD(expert.parameters(), lr=common.learning_rate, momentum=0.9, weight_decay=5e-4)
    steps = max(1, common.epochs * -(-len(y) // common.batch_size))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    accuracy, epoch, told = 0.0, 0, time.monotonic()
    for epoch in range(1, common.epochs + 1):
        expert.train()
        if time.monotonic() - told > PATIENCE:
            tell(f"common expert: epoch {epoch} of at most {common.epochs}")
            told = time.monotonic()
        for rows in torch.split(torch.randperm(len(y), generator=stream).to(device), common.batch_size):
            loss = cross_entropy(expert((x[rows].float() - mean) / std), y[rows])
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
        if common.accuracy > 0:
            accuracy = _accuracy(expert, dataset, held_out, mean, std, device)
            if accuracy >= common.accuracy:
                break
    accuracy = _accuracy(expert, dataset, held_out, mean, std, device)
    return {
        "source": "public",
        "epochs": epoch,
        "held_out_accuracy": accuracy,
        "asked_accuracy": common.accuracy,
        "reached": accuracy >= common.accuracy,
    }


def probe(
    expert: Expert,
    settings: Settings,
    dataset: Dataset,
    public_ids: Ids,
    device: torch.device,
    tell: Callable[[str], None],
) -> dict[str, Any]:
    """Fits the head of a pretrained network on nine tenths of the public split; returns the report."""
    if not isinstance(expert, PretrainedExpert):
        raise TypeError(f"only a pretrained network is probed, got {type(expert).__name__}")
    held_out, train_ids = _split(settings, public_ids)
    mean, std = channel_statistics(dataset.x_NCHW, public_ids)
    chunks = forward_all(expert, dataset.x_NCHW[train_ids], mean.to(device), std.to(device), device)
    embeddings = torch.from_numpy(np.concatenate([embedding for embedding, _ in chunks])).to(device)
    fit_head(expert, embeddings, torch.from_numpy(dataset.y_N[train_ids]).to(device))
    return {
        "source": settings.common_expert.source,
        "epochs": 0,
        "held_out_accuracy": _accuracy(expert, dataset, held_out, mean.to(device), std.to(device), device),
        "asked_accuracy": 0.0,
        "reached": True,
    }


def _split(settings: Settings, public_ids: Ids) -> tuple[Ids, Ids]:
    """Returns a tenth of the public split, held out to tell the accuracy, and the rest, to train on; by lot."""
    stream = torch_stream(settings.seed, "common expert", "split")
    order = public_ids[torch.randperm(len(public_ids), generator=stream).numpy()]
    return order[: len(order) // 10], order[len(order) // 10 :]


def _accuracy(expert: Expert, dataset: Dataset, ids: Ids, mean: Tensor, std: Tensor, device: torch.device) -> float:
    if len(ids) == 0:  # fewer than ten public samples: nothing was held out
        return float("nan")
    logits = [logits for _, logits in forward_all(expert, dataset.x_NCHW[ids], mean, std, device)]
    return float((np.concatenate(logits).argmax(axis=1) == dataset.y_N[ids]).mean())


@torch.no_grad()
def forward_all(
    expert: Expert, images: NDArray[np.uint8], mean: Tensor, std: Tensor, device: torch.device, batch: int = 256
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Yields (embeddings, logits) of the images, in chunks of `batch`, in evaluation mode."""
    expert.eval()
    for start in range(0, len(images), batch):
        x = torch.from_numpy(np.array(images[start : start + batch])).to(device)  # a copy: the mapped file is read-only
        embedding = expert.embed((x.float() - mean.view(-1, 1, 1)) / std.view(-1, 1, 1))
        yield embedding.float().cpu().numpy(), expert.head(embedding).float().cpu().numpy()
