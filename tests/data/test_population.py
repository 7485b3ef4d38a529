"""The population as a whole: splits, anchors, groups, domains, caps, the partition hash."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from fedmoe.data.contracts import Dataset, Deal, Shares
from fedmoe.data.holdings import Holdings
from fedmoe.data.overlap import check_disjoint
from fedmoe.data.population import Population, build_population
from fedmoe.data.selection import choose_keeping_labels, choose_stratified
from fedmoe.errors import DataError, SettingsError
from fedmoe.references import known_names
from fedmoe.settings.schema import ClientsSettings, DataSettings, ExpertsSettings, Settings

NUM_TRAIN, NUM_TEST = 2_400, 500
PARTITIONS = known_names("fedmoe.data.partitions")


def make_dataset(classes: int = 10, train: int = NUM_TRAIN, test: int = NUM_TEST) -> Dataset:
    stream = np.random.default_rng(3)
    return Dataset(
        name="made-up",
        real=False,
        x_NCHW=np.zeros((train + test, 1, 1, 1), dtype=np.uint8),
        y_N=stream.integers(0, classes, train + test),
        num_train=train,
        class_names=tuple(map(str, range(classes))),
        natural_N=stream.integers(0, 60, train + test),
    )


def make_settings(
    partition: str = "random-labels", *, seed: int = 0, experts: int = 5, public: int = 400, **clients: object
) -> Settings:
    table = {"num": 25, "per_round": 6, "anchors_per_round": 3, "unseen": 3, "alpha": 0.3, **clients}
    return Settings(
        seed=seed,
        data=DataSettings(public_samples=public),
        clients=ClientsSettings(partition=partition, **table),  # type: ignore[arg-type]
        experts=ExpertsSettings(num=experts),
    )


def build(partition: str = "random-labels", **changes: object) -> Population:
    return build_population(make_dataset(), make_settings(partition, **changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("partition", PARTITIONS)
def test_law_7_nothing_overlaps(partition: str, seed: int) -> None:
    population = build(partition, seed=seed)
    placed = np.concatenate([population.public_ids, *(population.shards[client] for client in population.training)])
    assert len(np.unique(placed)) == len(placed)
    assert placed.max() < NUM_TRAIN
    assert all(population.shards[client].min() >= NUM_TRAIN for client in population.unseen)
    assert min(len(shard) for shard in population.shards) >= 1
    assert len(population.public_ids) == 400
    if partition in ("aligned", "dirichlet", "pathological", "random_labels", "shards"):
        trained = {population.labels_of(client) for client in population.training}
        assert trained.isdisjoint(population.labels_of(client) for client in population.unseen)
        assert not any("training has too" in note for note in population.notes)


@pytest.mark.parametrize("partition", PARTITIONS)
def test_same_seed_same_fingerprint_another_seed_another(partition: str) -> None:
    assert build(partition).fingerprint() == build(partition).fingerprint()
    assert build(partition).fingerprint() != build(partition, seed=1).fingerprint()


@pytest.mark.parametrize("change", ["a sample changes hands", "public", "group", "domain", "order of clients"])
def test_the_fingerprint_sees(change: str) -> None:
    population = build("random-labels")
    first, second, *others = population.shards
    changed = {
        "a sample changes hands": {"shards": Holdings.of([first[:-1], np.concatenate([first[-1:], second]), *others])},
        "public": {"public_ids": population.public_ids[1:]},
        "group": {"group_N": (population.group_N + 1) % 5},
        "domain": {"domain_N": population.domain_N + 1},
        "order of clients": {"shards": Holdings.of([second, first, *others])},
    }[change]
    assert replace(population, **changed).fingerprint() != population.fingerprint()


@pytest.mark.parametrize("partition", PARTITIONS)
def test_the_fingerprint_is_the_hash_of_each_clients_samples_in_turn(partition: str) -> None:
    population = build(partition)
    words = (population.num_training, 10, sorted(population.anchors.items()), population.groups, population.domains)
    digest = hashlib.sha256(repr(words).encode())
    for array in (*population.shards, population.public_ids, population.group_N, population.domain_N):
        digest.update(len(array).to_bytes(8, "little") + array.astype("<i8").tobytes())
    assert population.fingerprint() == digest.hexdigest()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_anchors_hold_their_own_disjoint_groups_which_cover_all_labels(seed: int) -> None:
    population = build("random-labels", seed=seed)
    assert population.anchors == {q: q for q in range(5)}
    assert sorted(label for group in population.groups for label in group) == list(range(10))
    assert [population.labels_of(q) for q in population.anchors] == list(population.groups)
    sizes = [len(population.shards[q]) for q in population.anchors]
    assert sizes == [(NUM_TRAIN - 400) // 25] * 5  # what a normal client has on the average
    assert (population.normal, population.training) == (range(5, 25), range(25))
    for q, group in enumerate(population.groups):
        assert np.isin(population.labels_N[population.group_N == q], group).all()


def test_what_is_odd_about_the_deal_is_noted() -> None:
    assert any("3 of the 3 unseen clients hold a label combination" in note for note in build("iid").notes)
    few = build("random-labels", anchors_per_round=0, num=2, per_round=2, labels_per_client=3)
    assert any("labels of unseen clients are held by no training client: " in note for note in few.notes)


def test_without_anchors_groups_are_made_all_the_same() -> None:
    population = build("aligned", anchors_per_round=0)
    assert (population.anchors, len(population.normal), len(population.groups)) == ({}, 25, 5)


def test_more_experts_than_labels_are_fine_without_anchors() -> None:
    population = build("random-labels", anchors_per_round=0, experts=12)
    assert sorted(label for group in population.groups for label in group) == list(range(10))


def test_under_domain_the_group_is_the_domain_and_anchor_m_lives_in_domain_m() -> None:
    population = build("domain")
    assert population.domains == ("identity", "rotate90", "rotate180", "rotate270", "negative")
    assert (population.group_N == population.domain_N).all()
    counts = np.bincount(population.domain_N)
    assert counts.max() - counts.min() <= 2
    for q in population.anchors:
        assert set(population.domain_N[population.shards[q]]) == {q}
        assert population.labels_of(q) == tuple(range(10))
    assert all(len(set(population.domain_N[shard])) == 1 for shard in population.shards)


def test_other_partitions_know_one_domain() -> None:
    population = build("iid")
    assert population.domains == ("identity",)
    assert not population.domain_N.any()


def test_the_public_split_has_each_label_in_its_proportion() -> None:
    population = build("iid")
    public = np.bincount(population.labels_N[population.public_ids], minlength=10)
    whole = np.bincount(population.labels_N[:NUM_TRAIN], minlength=10)
    assert np.abs(public - whole * 400 / NUM_TRAIN).max() <= 1


@pytest.mark.parametrize("partition", ["random-labels", "dirichlet", "iid"])
def test_the_cap_keeps_every_clients_labels(partition: str) -> None:
    whole, capped = build(partition), build(partition, samples=12)
    assert max(len(capped.shards[client]) for client in capped.training) == 12
    for client in capped.training:
        assert set(capped.shards[client]) <= set(whole.shards[client])
        assert capped.labels_of(client) == whole.labels_of(client)
    assert [len(capped.shards[client]) for client in capped.unseen] == [len(whole.shards[c]) for c in whole.unseen]


def test_counts_and_priors_agree_with_the_shards() -> None:
    population = build("dirichlet")
    counts = population.label_counts()
    assert counts.shape == (28, 10)
    assert (population.label_totals == counts[: population.num_training].sum(axis=0)).all()
    assert population.label_totals is population.label_totals, "counted once a run"
    for client, shard in enumerate(population.shards):
        assert (counts[client] == np.bincount(population.labels_N[shard], minlength=10)).all()
        np.testing.assert_allclose(population.label_prior(shard), counts[client] / len(shard))
        assert population.labels_of(client) == tuple(np.flatnonzero(counts[client]))


@pytest.mark.parametrize(
    ("classes", "experts", "partition", "clients"),
    [
        (10, 5, "random-labels", {"labels_per_client": 4}),
        (10, 5, "aligned", {"labels_per_client": 4}),
        (100, 10, "random-labels", {"labels_per_client": 10}),
        (62, 10, "random-labels", {"labels_per_client": 5}),
        (10, 5, "dirichlet", {"alpha": 0.1}),
    ],
)
def test_the_papers_presets(classes: int, experts: int, partition: str, clients: dict[str, float]) -> None:
    dataset = make_dataset(classes, train=20_000, test=4_000)
    settings = make_settings(
        partition, experts=experts, num=100, per_round=10, anchors_per_round=5, unseen=10, **clients
    )
    population = build_population(dataset, settings)
    assert (len(population.training), len(population.unseen), len(population.normal)) == (100, 10, 100 - experts)
    if partition == "random-labels":
        assert {len(population.labels_of(c)) for c in population.normal} == {clients["labels_per_client"]}


BAD = {
    "no data left": ({"public": 2_390}, "at most 2375 of made-up's 2400 training samples, got 2390"),
    "more public than there is": ({"public": 9_999}, "at most 2375 of made-up's 2400"),
    "anchors without labels": ({"experts": 11}, r"at most the number of labels \(10\).*got 11; hint"),
    "anchors alone": ({"num": 5}, "must leave a normal client beside the 5 anchors.*hint: clients.num=6"),
    "experts are not domains": ({"partition": "domain", "experts": 4}, r"number of domains \(5\).*got 4; hint"),
    "a domain twice": ({"partition": "domain", "domains": "negative,negative"}, "must name different transforms"),
    "no domain": ({"partition": "domain", "domains": ""}, "must name different transforms"),
    "a wrong name": ({"partition": "random-label"}, "did you mean 'random_labels'"),
}


@pytest.mark.parametrize("case", BAD)
def test_settings_that_cannot_be_met_are_refused(case: str) -> None:
    changes, message = BAD[case]
    with pytest.raises(SettingsError, match=message):
        build(**changes)  # type: ignore[arg-type]


def greedy(deal: Deal) -> Shares:
    """A faulty partition: the first client's samples are the second's as well."""
    halves = np.array_split(deal.train_ids, deal.num_clients)
    return Shares(train=(halves[0], halves[0], *halves[2:]), unseen=(deal.test_ids,) * deal.num_unseen)


def forgetful(deal: Deal) -> Shares:
    """A faulty partition: it forgets the last client."""
    return Shares(train=tuple(np.array_split(deal.train_ids, deal.num_clients - 1)), unseen=(deal.test_ids,))


def test_a_faulty_partition_of_ones_own_is_found_out() -> None:
    with pytest.raises(DataError, match="80 are in more"):
        build(f"{__file__}:greedy")
    with pytest.raises(SettingsError, match="must deal to 20 training and 3 unseen clients, got 19 and 1"):
        build(f"{__file__}:forgetful")


OVERLAPS = {
    "two clients": ([0, 1], [[2, 3], [3, 4]], [[6]], "1 are in more, the first is 3"),
    "public": ([0, 2], [[2, 3]], [[6]], "1 are in more, the first is 2"),
    "test in training": ([0], [[2, 6]], [[7]], "from 0 to 5, got 0..6"),
    "training in test": ([0], [[2]], [[5, 6]], "from 6 to 9, got 5..6"),
    "no such sample": ([0], [[2]], [[10]], "from 6 to 9, got 10..10"),
    "empty client": ([0], [[2], []], [[7]], "got none for 1 clients"),
    "twice in an unseen client": ([0], [[2]], [[7, 7]], "must hold a sample once"),
}


@pytest.mark.parametrize("case", OVERLAPS)
def test_overlaps_are_refused(case: str) -> None:
    public, training, unseen, message = OVERLAPS[case]
    shares = [np.array(share, dtype=np.int64) for share in (public, *training, *unseen)]
    cut = 1 + len(training)
    with pytest.raises(DataError, match=message):
        check_disjoint(shares[0], shares[1:cut], shares[cut:], num_train=6, num_all=10)


def test_choices_have_the_size_asked_for() -> None:
    labels_N = np.repeat(np.arange(5), [1, 2, 3, 50, 44])
    ids = np.arange(100)
    for size in (1, 3, 5, 7, 99, 100):
        for choose in (choose_keeping_labels, choose_stratified):
            chosen = choose(ids, labels_N, size, np.random.default_rng(size))
            assert len(np.unique(chosen)) == len(chosen) == size
    assert set(labels_N[choose_keeping_labels(ids, labels_N, 5, np.random.default_rng(0))]) == set(range(5))
