"""Concept shift: what a domain calls each label."""

import numpy as np
from numpy.typing import NDArray

from fedmoe.seeding import numpy_stream
from fedmoe.settings.schema import Settings

__all__ = ["label_meanings"]


def label_meanings(settings: Settings, num_domains: int, num_classes: int) -> NDArray[np.int64] | None:
    """Returns what each domain calls each label, shape (domains, classes), or `None` where labels mean the same in all.

    The first domain keeps the labels; every other one has a permutation of its own, drawn from the run's seed.
    """
    if not settings.clients.permute_labels or num_domains == 1:
        return None
    names = [
        numpy_stream(settings.seed, "meaning of labels", domain).permutation(num_classes)
        for domain in range(1, num_domains)
    ]
    return np.stack([np.arange(num_classes), *names]).astype(np.int64)
