"""Which domain each sample belongs to, where clients differ by what their inputs look like."""

import numpy as np
from numpy.typing import NDArray

from fedmoe.data.contracts import Dataset
from fedmoe.errors import SettingsError
from fedmoe.settings.schema import Settings

__all__ = ["assign_domains", "domains_of", "parse_domains"]


def domains_of(dataset: Dataset, settings: Settings) -> tuple[str, ...]:
    """Returns the transform of each domain: as the settings say, or the identity for data with domains of its own."""
    if dataset.domain_N is not None:
        return ("identity",) * (int(dataset.domain_N.max()) + 1)
    return parse_domains(settings.clients.domains, alike=settings.clients.permute_labels)


def parse_domains(text: str, *, alike: bool = False) -> tuple[str, ...]:
    """Returns the references of the domains' transforms.

    >>> parse_domains("identity, negative")
    ('identity', 'negative')

    Args:
        text: the setting `clients.domains`.
        alike: whether domains may look alike, as they differ by something else.

    Raises:
        SettingsError: one is empty, or comes twice and may not.
    """
    names = tuple(name.strip() for name in text.split(","))
    if not all(names) or (not alike and len(set(names)) < len(names)):
        raise SettingsError(
            f"clients.domains must name different transforms, separated by commas, got '{text}'; "
            "hint: 'identity,rotate90,rotate180,rotate270,negative'; they may look alike with clients.permute-labels"
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
