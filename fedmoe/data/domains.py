"""Which domain each sample belongs to, where clients differ by what their inputs look like."""

import numpy as np
from numpy.typing import NDArray

from fedmoe.data.contracts import Dataset
from fedmoe.errors import SettingsError

__all__ = ["assign_domains", "parse_domains"]


def parse_domains(text: str) -> tuple[str, ...]:
    """Returns the references of the domains' transforms.

    >>> parse_domains("identity, negative")
    ('identity', 'negative')

    Raises:
        SettingsError: one is empty or comes twice.
    """
    names = tuple(name.strip() for name in text.split(","))
    if not all(names) or len(set(names)) < len(names):
        raise SettingsError(
            f"clients.domains must name different transforms, separated by commas, got '{text}'; "
            "hint: 'identity,rotate90,rotate180,rotate270,negative'"
        )
    return names


def assign_domains(dataset: Dataset, num_domains: int, stream: np.random.Generator) -> NDArray[np.int64]:
    """Returns each sample's domain: equal shares of each label, in the training pool and in the test pool."""
    domain_N = np.zeros(len(dataset.y_N), dtype=np.int64)
    for low, high in ((0, dataset.num_train), (dataset.num_train, len(dataset.y_N))):
        order = low + stream.permutation(high - low)
        order = order[np.argsort(dataset.y_N[order], kind="stable")]
        domain_N[order] = np.arange(len(order)) % num_domains
    return domain_N
