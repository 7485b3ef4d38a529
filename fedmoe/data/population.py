"""The population: training clients (anchors first), unseen clients, the public split; who holds which samples."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fedmoe.data.anchors import anchor_shares, label_groups
from fedmoe.data.contracts import Dataset, Deal, Ids, Shares, is_over_domains
from fedmoe.data.domains import assign_domains, domains_of
from fedmoe.data.holdings import Holdings
from fedmoe.data.overlap import check_disjoint
from fedmoe.data.selection import choose_keeping_labels, choose_stratified
from fedmoe.errors import SettingsError
from fedmoe.references import load_plugin
from fedmoe.seeding import derive_seed, numpy_stream
from fedmoe.settings.schema import Settings

__all__ = ["Population", "build_population"]


@dataclass(frozen=True, kw_only=True)
class Population:
    """Everyone, and what each one holds.

    Client ids: anchors are 0 .. A-1 (anchor q trains expert q; A is M, or 0 without anchors), then the normal
    training clients up to S-1, then the unseen clients S .. S+U-1.

    Attributes:
        shards: sample ids of each client, sorted, by client id (training clients, then unseen clients); flat arrays,
            an item is made when it is asked for.
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

    shards: Holdings
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

    @property
    def training(self) -> range:
        """Ids of all training clients, anchors first."""
        return range(self.num_training)

    @property
    def unseen(self) -> range:
        """Ids of the clients that take no part in training."""
        return range(self.num_training, len(self.shards))

    @property
    def normal(self) -> range:
        """Ids of the training clients that are no anchors."""
        return range(len(self.anchors), self.num_training)

    @cached_property
    def label_totals(self) -> NDArray[np.int64]:
        """Number of samples of each label that all training clients together hold."""
        held = self.labels_N[self.shards[: self.num_training].ids]
        return np.bincount(held, minlength=self.num_classes).astype(np.int64, copy=False)

    def labels_of(self, client_id: int) -> tuple[int, ...]:
        """Returns the distinct labels that the client holds, ascending."""
        return tuple(np.unique(self.labels_N[self.shards[client_id]]).tolist())

    def label_counts(self) -> NDArray[np.int64]:
        """Returns the number of samples of each label (column) that each client (row, by id) holds."""
        return self.shards.label_counts(self.labels_N, self.num_classes)

    def label_prior(self, ids: Ids) -> NDArray[np.float64]:
        """Returns the share of each label in these samples; sums to 1."""
        counts = np.bincount(self.labels_N[ids], minlength=self.num_classes).astype(np.float64)
        prior: NDArray[np.float64] = counts / counts.sum()
        return prior

    def fingerprint(self) -> str:
        """Returns the partition hash: SHA-256 over who holds what, the public split, groups and domains, in hex."""
        digest = hashlib.sha256()
        words = (self.num_training, self.num_classes, sorted(self.anchors.items()), self.groups, self.domains)
        digest.update(repr(words).encode())
        for piece in self._pieces():
            digest.update(np.ascontiguousarray(piece, dtype="<i8").data)
        return digest.hexdigest()

    def _pieces(self) -> Iterator[NDArray[np.int64]]:
        """Yields all arrays, the clients' first, with the length of each before it."""
        yield from self.shards.pieces()
        for array in (self.public_ids, self.group_N, self.domain_N):
            yield np.array([len(array)])
            yield array


def build_population(dataset: Dataset, settings: Settings) -> Population:
    """Returns the population that the settings describe; same data, settings and seed give the same fingerprint.

    In this order: domains, public split, label groups, anchors, the partition, the cap on a client's samples.

    Raises:
        SettingsError: the settings ask for more than the data has, with a hint.
        DataError: samples overlap (a partition of one's own is at fault).
    """
    seed = derive_seed(settings.seed, "population")
    clients = settings.clients
    num_classes = len(dataset.class_names)
    by_domain = is_over_domains(load_plugin("partition", "fedmoe.data.partitions", clients.partition))
    domains = domains_of(dataset, settings) if by_domain else ("identity",)
    domain_N = dataset.domain_N if by_domain else None
    if domain_N is None:
        domain_N = assign_domains(dataset, len(domains), numpy_stream(seed, "domains"))
    groups = label_groups(num_classes, settings.experts.num, numpy_stream(seed, "groups"))
    group_N = domain_N if by_domain else _groups_of(dataset.y_N, groups)
    public, pool = _public_split(dataset, settings, seed)
    anchors = _anchors(settings, pool, group_N, dataset.y_N, by_domain, seed)
    rest = np.setdiff1d(pool, np.concatenate(anchors), assume_unique=True) if anchors else pool
    shares = _deal(dataset, settings, rest, groups, domain_N if by_domain else None, derive_seed(seed, "partition"))
    everyone, unseen = Holdings.joined([Holdings.of(anchors), Holdings.of(shares.train)]), Holdings.of(shares.unseen)
    check_disjoint(public, everyone, unseen, num_train=dataset.num_train, num_all=len(dataset.y_N))
    training = _capped(everyone, dataset.y_N, clients.samples, seed)
    return Population(
        shards=Holdings.joined([training, unseen]).sorted(),
        num_training=len(training),
        anchors={client: client for client in range(len(anchors))},
        public_ids=public,
        groups=groups,
        group_N=group_N,
        domain_N=domain_N,
        domains=domains,
        labels_N=dataset.y_N,
        num_classes=num_classes,
        notes=(*shares.notes, *_remarks(training, unseen, dataset.y_N)),
    )


def _groups_of(y_N: NDArray[np.int64], groups: tuple[tuple[int, ...], ...]) -> NDArray[np.int64]:
    owner = {label: group for group, labels in enumerate(groups) for label in labels}
    return np.array([owner[label] for label in range(len(owner))], dtype=np.int64)[y_N]


def _public_split(dataset: Dataset, settings: Settings, seed: int) -> tuple[Ids, Ids]:
    """Returns the public samples, stratified by label, and the rest of the training pool."""
    size, num = settings.data.public_samples, settings.clients.num
    if dataset.num_train - size < num:
        raise SettingsError(
            f"data.public-samples must leave a sample for each of the {num} training clients (clients.num): at most "
            f"{max(0, dataset.num_train - num)} of {dataset.name}'s {dataset.num_train} training samples, got {size}"
        )
    whole = np.arange(dataset.num_train)
    public = choose_stratified(whole, dataset.y_N, size, numpy_stream(seed, "public"))
    return public, np.setdiff1d(whole, public, assume_unique=True)


def _anchors(
    settings: Settings, pool: Ids, group_N: NDArray[np.int64], y_N: NDArray[np.int64], by_domain: bool, seed: int
) -> tuple[Ids, ...]:
    """Returns each anchor's samples; nothing where the settings ask for no anchors."""
    clients, num = settings.clients, settings.experts.num
    if not clients.has_anchors:
        return ()
    num_groups = int((group_N if by_domain else y_N).max()) + 1
    if by_domain and num != num_groups:
        raise SettingsError(
            f"experts.num must be the number of domains ({num_groups}) where anchors are used with the partition "
            f"'{clients.partition}', got {num}; hint: experts.num={num_groups}, or clients.anchors-per-round=0"
        )
    if num > num_groups:
        raise SettingsError(
            f"experts.num must be at most the number of labels ({num_groups}) where anchors are used, since each "
            f"has labels of its own, got {num}; hint: fewer experts, or clients.anchors-per-round=0"
        )
    if num >= clients.num:
        raise SettingsError(
            f"clients.num must leave a normal client beside the {num} anchors (one an expert), got {clients.num}; "
            f"hint: clients.num={num + 1} or more"
        )
    return anchor_shares(pool, group_N, y_N, num, len(pool) // clients.num, seed=seed)


def _deal(
    dataset: Dataset,
    settings: Settings,
    rest: Ids,
    groups: tuple[tuple[int, ...], ...],
    domain_N: NDArray[np.int64] | None,
    seed: int,
) -> Shares:
    """Returns what the partition deals to the normal and the unseen clients, once it is sure that it dealt to all."""
    clients = settings.clients
    deal = Deal(
        labels_N=dataset.y_N,
        train_ids=rest,
        test_ids=np.arange(dataset.num_train, len(dataset.y_N)),
        num_clients=clients.num - (settings.experts.num if clients.has_anchors else 0),
        num_unseen=clients.unseen,
        num_classes=len(dataset.class_names),
        groups=groups,
        labels_per_client=clients.labels_per_client,
        alpha=clients.alpha,
        shards_per_client=clients.shards_per_client,
        domain_N=domain_N,
        natural_N=dataset.natural_N,
        seed=seed,
    )
    shares: Shares = load_plugin("partition", "fedmoe.data.partitions", clients.partition)(deal)
    got, wanted = (len(shares.train), len(shares.unseen)), (deal.num_clients, deal.num_unseen)
    if got != wanted:
        raise SettingsError(
            f"partition '{clients.partition}' must deal to {wanted[0]} training and {wanted[1]} unseen clients, "
            f"got {got[0]} and {got[1]}; hint: one share a client"
        )
    return shares


def _capped(training: Holdings, y_N: NDArray[np.int64], cap: int, seed: int) -> Holdings:
    """Returns the shares, each cut to `cap` samples at the most (0: not cut) that keep its labels."""
    if cap == 0 or int(training.sizes.max()) <= cap:
        return training
    return Holdings.of(
        [
            share if len(share) <= cap else choose_keeping_labels(share, y_N, cap, numpy_stream(seed, "cap", client))
            for client, share in enumerate(training)
        ]
    )


def _remarks(training: Holdings, unseen: Holdings, y_N: NDArray[np.int64]) -> tuple[str, ...]:
    """Returns notes on what was dealt, counted, not promised: labels nobody trains, combinations that are not new."""
    known, held = set(training.label_sets(y_N)), list(unseen.label_sets(y_N))
    missing = sorted(set().union(*held) - set().union(*known))
    familiar = sum(labels in known for labels in held)
    notes = []
    if missing:
        listed = ", ".join(map(str, missing[:10])) + (", ..." if len(missing) > 10 else "")
        notes.append(f"{len(missing)} labels of unseen clients are held by no training client: {listed}")
    if familiar:
        notes.append(f"{familiar} of the {len(unseen)} unseen clients hold a label combination that training has too")
    return tuple(notes)
