"""The population: training clients (anchors first), unseen clients, the public split; who holds which samples.

PLACEHOLDER docstring: see Population.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedmoe.data.contracts import Ids

__all__ = ["Population"]


@dataclass(frozen=True, kw_only=True)
class Population:
    """Everyone, and what each one holds.

    Client ids: anchors are 0 .. A-1 (anchor q trains expert q; A is M, or 0 without anchors), then the normal
    training clients up to S-1, then the unseen clients S .. S+U-1.

    Attributes:
        shards: sample ids of each client, by client id (training clients, then unseen clients).
        num_training: S.
        anchors: client id -> the expert that is its own.
        public_ids: samples of the common expert's public split; no client holds them.
        groups: disjoint label groups, one an expert, covering all labels.
        group_N: the group of every sample, by id: its label's group, or its domain under the domain partition.
        domain_N: domain of every sample by id (index into `domains`); all zero without domains.
        domains: references of the transforms, by domain; `("identity",)` without domains.
        labels_N: label of every sample by id.
        num_classes: number of labels.
        notes: sentences that a reader of the results must know.
    """

    shards: tuple[Ids, ...]
    num_training: int
    anchors: Mapping[int, int]
    public_ids: Ids
    groups: tuple[tuple[int, ...], ...]
    group_N: NDArray[np.int64]
    domain_N: NDArray[np.int64]
    domains: tuple[str, ...]
    labels_N: NDArray[np.int64]
    num_classes: int
    notes: tuple[str, ...] = ()
