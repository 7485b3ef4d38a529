"""Drift: from some round on, the samples of one group are called, or look, otherwise than before."""

import numpy as np
from numpy.typing import NDArray

from fedmoe.data.content_cache import PreparedData
from fedmoe.data.domain_shift import apply_domains
from fedmoe.data.population import Population
from fedmoe.errors import SettingsError
from fedmoe.seeding import numpy_stream
from fedmoe.settings.schema import Settings

__all__ = ["LABELS", "drifted", "renamed"]

LABELS = "labels"


def drifted(prepared: PreparedData, population: Population, settings: Settings) -> PreparedData:
    """Returns the data as it is from round `clients.drift-round` on; who holds which samples stays.

    All samples of group `clients.drift-group` drift, training and test ones: that is a label group of an expert's, or
    a domain where the partition is over domains. With `clients.drift` as `"labels"` the labels that occur in the group
    are permuted, none keeps its name; else it names a transform that their images go through. The public split is the
    server's, and was taken before: it stays.

    Raises:
        SettingsError: there is no such group, or it has a single label, which cannot be permuted.
        ReferenceError_: there is no such transform.
    """
    clients, y_N = settings.clients, prepared.dataset.y_N
    drifts_N = population.group_N == clients.drift_group
    if not drifts_N.any():
        raise SettingsError(
            f"clients.drift-group must be one of the {int(population.group_N.max()) + 1} label groups, or domains, got "
            f"{clients.drift_group}"
        )
    drifts_N[population.public_ids] = False
    meanings_GC, look = None, clients.drift
    if clients.drift == LABELS:
        own, num_classes = np.unique(y_N[drifts_N]), population.num_classes
        if len(own) < 2:
            raise SettingsError(
                f"labels can be permuted where there are two at least, got clients.drift-group={clients.drift_group} "
                f"with the label {own[0]} alone; hint: fewer experts, so that groups are larger, or a transform"
            )
        new_C = renamed(own, num_classes, numpy_stream(settings.seed, "drift"))
        meanings_GC, look = np.stack([np.arange(num_classes), new_C]), "identity"
    return apply_domains(prepared, drifts_N.astype(np.int64), ("identity", look), meanings_GC)


def renamed(labels: NDArray[np.int64], num_classes: int, stream: np.random.Generator) -> NDArray[np.int64]:
    """Returns the new name of each of the classes: those of `labels` pass theirs on in a ring drawn by lot.

    >>> renamed(np.array([0, 2]), 4, np.random.default_rng(0))
    array([2, 1, 0, 3])
    """
    ring, new_C = stream.permutation(labels), np.arange(num_classes)
    new_C[ring] = np.roll(ring, 1)
    return new_C
