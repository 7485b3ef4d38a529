"""The common expert's work, done once: embeddings and logits of every sample, memory-mapped, by content hash."""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedmoe.data.storage import home, mapped, new_folder
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
        compute: gives (embeddings, logits) of consecutive samples, chunk by chunk; no more than one is kept in memory.

    Raises:
        DataError: another number of rows came, or the cache cannot be written.
    """
    key = hashlib.sha256(f"{data_fingerprint}\n{common_fingerprint}".encode()).hexdigest()[:32]
    folder = _folder(key)
    if folder.is_dir():
        return open_embeddings(key)
    with new_folder(folder) as draft:
        _write(draft, num_samples, compute())
    table = open_embeddings(key)
    return EmbeddingTable(key, table.embeddings, table.logits, computed=num_samples)


def _write(folder: Path, num_samples: int, chunks: Iterable[Chunk]) -> None:
    """Writes the chunks, one after another, as two arrays of `num_samples` rows."""
    rows = 0
    with (folder / "embeddings.npy").open("wb") as embeddings, (folder / "logits.npy").open("wb") as logits:
        for chunk in chunks:
            for file, part in zip((embeddings, logits), chunk, strict=True):
                if rows == 0:
                    header = {"descr": "<f4", "fortran_order": False, "shape": (num_samples, part.shape[1])}
                    np.lib.format.write_array_header_1_0(file, header)
                file.write(np.ascontiguousarray(part, dtype="<f4").data)
            rows += len(chunk[0])
    if rows != num_samples:
        raise DataError(f"{num_samples} embeddings were expected, got {rows}")


def open_embeddings(key: str) -> EmbeddingTable:
    """Returns the table from the cache, memory-mapped read-only.

    Raises:
        DataError: it is not there, or damaged.
    """
    folder = _folder(key)
    try:
        embeddings, logits = mapped(folder / "embeddings.npy"), mapped(folder / "logits.npy")
    except (OSError, ValueError, EOFError) as error:
        raise DataError(
            f"the embedding cache {folder} must hold embeddings.npy and logits.npy: {error}; "
            "hint: remove that folder, and they are computed again"
        ) from error
    return EmbeddingTable(key, embeddings, logits)


def _folder(key: str) -> Path:
    return home() / "cache" / "embeddings" / key
