"""The common expert's work, done once: embeddings and logits of every sample, memory-mapped, by content hash."""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from fedmoe.data.storage import home, new_folder
from fedmoe.errors import DataError

__all__ = ["Chunk", "EmbeddingTable", "embedding_table", "open_embeddings"]

Chunk = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Embeddings and logits of consecutive samples."""


@dataclass(frozen=True)
class EmbeddingTable:
    """What the frozen common expert says of every sample.

    Attributes:
        key: content hash of data and common expert.
        embeddings: float32 (N, D), memory-mapped.
        logits: float32 (N, C), memory-mapped.
        computed: how many samples had to be embedded to make it; 0 when it came from the cache.
    """

    key: str
    embeddings: NDArray[np.float32]
    logits: NDArray[np.float32]
    computed: int = 0


def embedding_table(
    data_fingerprint: str, common_fingerprint: str, num_samples: int, compute: Callable[[], Iterable[Chunk]]
) -> EmbeddingTable:
    """Returns the table of this data and this common expert; `compute` runs only when the cache has none.

    Args:
        data_fingerprint: content hash of the data.
        common_fingerprint: content hash of the common expert.
        num_samples: rows that the table must have.
        compute: gives (embeddings, logits) of consecutive samples, chunk by chunk.
    """
    key = hashlib.sha256(f"{data_fingerprint}\n{common_fingerprint}".encode()).hexdigest()[:32]
    folder = _folder(key)
    if folder.is_dir():
        return open_embeddings(key)
    chunks = list(compute())
    embeddings = np.concatenate([chunk[0] for chunk in chunks])
    logits = np.concatenate([chunk[1] for chunk in chunks])
    if len(embeddings) != num_samples:
        raise DataError(f"{num_samples} embeddings were expected, got {len(embeddings)}")
    with new_folder(folder) as draft:
        np.save(draft / "embeddings.npy", embeddings)
        np.save(draft / "logits.npy", logits)
    table = open_embeddings(key)
    return EmbeddingTable(key, table.embeddings, table.logits, computed=num_samples)


def open_embeddings(key: str) -> EmbeddingTable:
    """Returns the table from the cache, memory-mapped read-only.

    Raises:
        DataError: it is not there, or damaged.
    """
    folder = _folder(key)
    try:
        embeddings = np.load(folder / "embeddings.npy", mmap_mode="r")
        logits = np.load(folder / "logits.npy", mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise DataError(
            f"the embedding cache {folder} must hold embeddings.npy and logits.npy: {error}; "
            "hint: remove that folder, and they are computed again"
        ) from error
    return EmbeddingTable(key, cast(NDArray[np.float32], embeddings), cast(NDArray[np.float32], logits))


def _folder(key: str) -> Path:
    return home() / "cache" / "embeddings" / key
