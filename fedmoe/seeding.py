"""Streams of random numbers, each derived from the run's one seed and from what it is for; no global generator."""

import hashlib

import numpy as np
import torch

__all__ = ["derive_seed", "numpy_stream", "torch_stream"]


def derive_seed(root: int, *path: str | int) -> int:
    """Returns the seed (0 <= seed < 2**63) of the stream that `path` names under the run's seed.

    Neighbouring roots and paths give unrelated seeds, which `root + i` would not.

    >>> derive_seed(0, "client", 3) == derive_seed(0, "client", 3)
    True
    >>> derive_seed(0, "client", 3) == derive_seed(0, "client", 4)
    False
    """
    text = "\x1f".join([str(int(root)), *(f"{type(part).__name__}:{part}" for part in path)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def numpy_stream(root: int, *path: str | int) -> np.random.Generator:
    """Returns a NumPy generator at the start of the stream that `path` names."""
    return np.random.default_rng(derive_seed(root, *path))


def torch_stream(root: int, *path: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """Returns a torch generator on `device` at the start of the stream that `path` names."""
    return torch.Generator(device=device).manual_seed(derive_seed(root, *path))
