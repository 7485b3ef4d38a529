"""Anchor clients: one for each expert, with a label group (or a domain) of its own."""

import numpy as np
from numpy.typing import NDArray

from fedmoe.data.contracts import Ids
from fedmoe.data.selection import choose_keeping_labels
from fedmoe.errors import SettingsError
from fedmoe.seeding import numpy_stream

__all__ = ["anchor_shares", "label_groups"]


def label_groups(num_classes: int, num_groups: int, stream: np.random.Generator) -> tuple[tuple[int, ...], ...]:
    """Returns `num_groups` disjoint, sorted groups of random labels that cover all labels, equal in size to within one.

    With more groups than labels some are empty.
    """
    groups = np.array_split(stream.permutation(num_classes), num_groups)
    return tuple(tuple(np.sort(group).tolist()) for group in groups)


def anchor_shares(
    pool: Ids, group_N: NDArray[np.int64], labels_N: NDArray[np.int64], num_anchors: int, size: int, *, seed: int
) -> tuple[Ids, ...]:
    """Returns each anchor's samples: `size` of its group's, every label among them, half the group's at the most.

    Args:
        pool: training samples that are still free.
        group_N: the group of every sample by id: anchor q takes samples of group q.
        labels_N: label of every sample by id.
        num_anchors: anchors, one for each group.
        size: samples of an anchor: what a normal client gets on the average.
        seed: root of the random choice.

    Raises:
        SettingsError: a group has no two samples, so that none would be left to the normal clients.
    """
    shares = []
    for anchor in range(num_anchors):
        available = pool[group_N[pool] == anchor]
        if len(available) < 2:
            raise SettingsError(
                f"anchor {anchor} needs samples of its own label group or domain, got {len(available)} in the pool; "
                "hint: fewer experts.num (there is one anchor for each), or a smaller data.public-samples"
            )
        share = min(max(1, size), len(available) // 2)
        shares.append(choose_keeping_labels(available, labels_N, share, numpy_stream(seed, "anchor", anchor)))
    return tuple(shares)
