"""The battery of partitions: one row each, and a file in `fedmoe/data/partitions/` without a row fails."""

import random
from dataclasses import dataclass, replace

import numpy as np
import pytest

from fedmoe.data.contracts import Deal, Shares
from fedmoe.data.partitions.dirichlet import _training
from fedmoe.errors import SettingsError
from fedmoe.references import known_names, load_plugin

PACKAGE = "fedmoe.data.partitions"
TRAIN, TEST, CLASSES, DOMAINS, OWNERS = 3_000, 600, 10, 4, 60
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Row:
    """What a partition promises beyond the laws that hold for all of them."""

    novel: bool  # unseen clients' label combinations occur in no training client
    num_labels: int | None = None  # labels of each client, exactly
    whole_pool: bool = True  # every training sample is dealt


BATTERY = {
    "aligned": Row(novel=True, num_labels=4),
    "dirichlet": Row(novel=True),
    "domain": Row(novel=False),
    "domain_labels": Row(novel=False, whole_pool=False),
    "iid": Row(novel=False),
    "natural": Row(novel=False, whole_pool=False),
    "pathological": Row(novel=True, num_labels=4),
    "random_labels": Row(novel=True, num_labels=4),
    "shards": Row(novel=True, whole_pool=False),
}


def make_deal(seed: int = 0, **changes: object) -> Deal:
    data = np.random.default_rng(7)
    owners = data.integers(0, OWNERS, TRAIN + TEST)
    deal = Deal(
        labels_N=data.permutation(np.arange(TRAIN + TEST) % CLASSES),
        train_ids=np.arange(100, TRAIN),  # the first hundred are spoken for: public split and anchors
        test_ids=np.arange(TRAIN, TRAIN + TEST),
        num_clients=20,
        num_unseen=3,
        num_classes=CLASSES,
        groups=((0, 7), (1, 4), (2, 9), (3, 5), (6, 8)),
        labels_per_client=4,
        alpha=0.3,
        shards_per_client=2,
        domain_N=np.arange(TRAIN + TEST) % DOMAINS,
        natural_N=owners,
        seed=seed,
    )
    return replace(deal, **changes)  # type: ignore[arg-type]


def deal_out(name: str, deal: Deal) -> Shares:
    shares: Shares = load_plugin("partition", PACKAGE, name)(deal)
    return shares


def labels(deal: Deal, share: np.ndarray) -> tuple[int, ...]:
    return tuple(np.unique(deal.labels_N[share]).tolist())


def as_bytes(shares: Shares) -> list[bytes]:
    return [share.tobytes() for share in (*shares.train, *shares.unseen)]


def test_every_partition_has_a_row() -> None:
    assert known_names(PACKAGE) == sorted(BATTERY)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", BATTERY)
def test_everyone_gets_samples_of_the_right_pool_and_no_training_sample_is_dealt_twice(name: str, seed: int) -> None:
    deal = make_deal(seed)
    shares = deal_out(name, deal)
    assert (len(shares.train), len(shares.unseen)) == (deal.num_clients, deal.num_unseen)
    assert min(len(share) for share in (*shares.train, *shares.unseen)) >= 1
    assert all(share.dtype == np.int64 for share in (*shares.train, *shares.unseen))
    dealt = np.concatenate(shares.train)
    assert len(np.unique(dealt)) == len(dealt)
    assert np.isin(dealt, deal.train_ids).all()
    assert all(np.isin(share, deal.test_ids).all() and len(np.unique(share)) == len(share) for share in shares.unseen)
    if BATTERY[name].whole_pool:
        assert len(dealt) == len(deal.train_ids)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", [name for name, row in BATTERY.items() if row.novel])
def test_unseen_label_combinations_are_no_training_clients_and_no_anchors(name: str, seed: int) -> None:
    deal = make_deal(seed)
    shares = deal_out(name, deal)
    unseen = {labels(deal, share) for share in shares.unseen}
    assert unseen.isdisjoint(labels(deal, share) for share in shares.train)
    assert unseen.isdisjoint(deal.groups)
    assert len(unseen) == deal.num_unseen


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", [name for name, row in BATTERY.items() if row.num_labels])
def test_clients_hold_exactly_k_labels_and_an_unseen_client_all_test_samples_of_them(name: str, seed: int) -> None:
    deal = make_deal(seed)
    shares = deal_out(name, deal)
    everyone = (*shares.train, *shares.unseen)
    assert {len(labels(deal, share)) for share in everyone} == {BATTERY[name].num_labels}
    for share in shares.unseen:
        assert len(share) == np.isin(deal.labels_N[deal.test_ids], labels(deal, share)).sum()


@pytest.mark.parametrize("name", BATTERY)
def test_same_deal_same_bytes_another_seed_others(name: str) -> None:
    first = deal_out(name, make_deal(1))
    assert as_bytes(deal_out(name, make_deal(1))) == as_bytes(first)
    assert as_bytes(deal_out(name, make_deal(2))) != as_bytes(first)


@pytest.mark.parametrize("name", BATTERY)
def test_global_generators_are_left_alone_and_nothing_is_printed(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    before = (random.getstate(), np.random.get_state()[1].tobytes())  # type: ignore[index,union-attr]  # noqa: NPY002
    deal_out(name, make_deal())
    assert (random.getstate(), np.random.get_state()[1].tobytes()) == before  # type: ignore[index,union-attr]  # noqa: NPY002
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", BATTERY)
def test_more_clients_than_samples_are_refused(name: str) -> None:
    with pytest.raises(SettingsError, match=r"hint: .*clients\.num"):
        deal_out(name, make_deal(train_ids=np.arange(100, 115)))


@pytest.mark.parametrize("seed", SEEDS)
def test_aligned_clients_hold_unions_of_groups_all_groups_in_training(seed: int) -> None:
    deal = make_deal(seed)
    shares = deal_out("aligned", deal)
    for share in (*shares.train, *shares.unseen):
        held = labels(deal, share)
        assert sum(set(group) <= set(held) for group in deal.groups) == 2
    trained = {labels(deal, share) for share in shares.train}
    assert set().union(*trained) == set(range(CLASSES))
    assert len(trained) == 7  # of 10 unions three are reserved


def test_aligned_trains_all_groups_even_with_as_few_clients_as_cover_them() -> None:
    deal = make_deal(num_clients=3)
    assert set().union(*(labels(deal, share) for share in deal_out("aligned", deal).train)) == set(range(CLASSES))
    with pytest.raises(SettingsError, match="2 normal clients of 2 groups leave 1 of the 5 groups out"):
        deal_out("aligned", make_deal(num_clients=2))


def test_aligned_draws_unions_where_they_are_too_many_to_list() -> None:
    groups = tuple((2 * group, 2 * group + 1) for group in range(40))
    deal = make_deal(labels_N=np.arange(TRAIN + TEST) % 80, num_classes=80, groups=groups, labels_per_client=20)
    shares = deal_out("aligned", deal)
    assert {len(labels(deal, share)) for share in shares.train} == {20}
    assert {labels(deal, share) for share in shares.unseen}.isdisjoint(labels(deal, share) for share in shares.train)


def test_unequal_groups_are_said() -> None:
    shares = deal_out("aligned", make_deal(groups=((0, 1, 2), (3, 4, 5), (6, 7), (8, 9))))
    assert any("differ in size" in note for note in shares.notes)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_client_lives_in_one_domain_and_domains_are_spread_evenly(seed: int) -> None:
    deal = make_deal(seed, num_unseen=6)
    assert deal.domain_N is not None
    shares = deal_out("domain", deal)
    for side, num in ((shares.train, deal.num_clients), (shares.unseen, deal.num_unseen)):
        homes = [np.unique(deal.domain_N[share]) for share in side]
        assert all(len(home) == 1 for home in homes)
        counts = np.bincount(np.concatenate(homes), minlength=DOMAINS)
        assert counts.sum() == num
        assert counts.max() - counts.min() <= 1
    assert all(len(labels(deal, share)) == CLASSES for share in shares.train)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_natural_client_is_one_owner_and_an_unseen_one_never_trains(seed: int) -> None:
    deal = make_deal(seed)
    assert deal.natural_N is not None
    shares = deal_out("natural", deal)
    owners = [np.unique(deal.natural_N[share]).tolist() for share in (*shares.train, *shares.unseen)]
    assert all(len(owner) == 1 for owner in owners)
    assert len({owner[0] for owner in owners}) == deal.num_clients + deal.num_unseen


def test_unseen_owners_are_those_without_training_samples_where_there_are_such() -> None:
    natural_N = np.arange(TRAIN + TEST) % OWNERS
    natural_N[TRAIN + 50 :] = OWNERS + np.arange(TEST - 50) % 3
    shares = deal_out("natural", make_deal(natural_N=natural_N))
    assert {int(natural_N[share[0]]) for share in shares.unseen} == {OWNERS, OWNERS + 1, OWNERS + 2}


@pytest.mark.parametrize("seed", SEEDS)
def test_dirichlet_of_the_paper_leaves_no_one_empty(seed: int) -> None:
    labels_N = np.arange(24_000) % 10
    deal = make_deal(
        seed, labels_N=labels_N, train_ids=np.arange(20_000), test_ids=np.arange(20_000, 24_000), num_clients=100,
        num_unseen=10, alpha=0.1,
    )  # fmt: skip
    shares = deal_out("dirichlet", deal)
    assert min(len(share) for share in shares.train) >= 1
    counts = np.array([np.bincount(labels_N[share], minlength=10) for share in shares.train])
    assert (counts.max(axis=1) / counts.sum(axis=1)).mean() > 0.6  # one label dominates at alpha 0.1


def test_dirichlet_fills_empty_clients_and_says_so() -> None:
    deal = make_deal(train_ids=np.arange(100, 300), num_clients=60, alpha=0.05)
    shares = deal_out("dirichlet", deal)
    assert min(len(share) for share in shares.train) == 1
    assert sum(len(share) for share in shares.train) == 200
    assert any("clients empty" in note for note in shares.notes)


@pytest.mark.parametrize("seed", SEEDS)
def test_dirichlet_of_many_clients_takes_the_first_draw(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    easy, hard = make_deal(seed, alpha=0.6), make_deal(seed, num_clients=60, alpha=0.3)
    draws = [_training(easy), _training(hard)]
    monkeypatch.setattr("fedmoe.data.partitions.dirichlet.REDRAWN", 10)
    first = [_training(easy), _training(hard)]
    told = [[share.tolist() for share in shares] for shares, _ in (*draws, *first)]
    assert told[0] == told[2], "it is the first of the draws that are made until all have enough"
    assert min(map(len, told[1])) >= 10 > min(map(len, told[3])) >= 1
    assert sum(map(len, told[3])) == len(hard.train_ids)


BAD = {
    "too many labels, random": ("random_labels", {"labels_per_client": 11}, "at most the number of labels, 10, got 11"),
    "too many labels, pathological": ("pathological", {"labels_per_client": 11}, "at most the number of labels, 10"),
    "all labels": ("random_labels", {"labels_per_client": 10}, "all 1 combinations of 10 of the 10 labels"),
    "one label": ("random_labels", {"labels_per_client": 1, "num_clients": 200}, "all 10 combinations of 1 .*hint"),
    "only neighbours": ("pathological", {"labels_per_client": 1}, "all 10 combinations of 1 .*hint"),
    "covered pairs": ("random_labels", {"labels_per_client": 2, "num_clients": 500}, "all 45 combinations of 2"),
    "no multiple": ("aligned", {"labels_per_client": 5}, "got 5 with 5 groups of 2 .*labels-per-client=4 or 6 or 8"),
    "one group": ("aligned", {"labels_per_client": 2}, "at least 2 of them but not all.*hint"),
    "all groups": ("aligned", {"labels_per_client": 10}, "at least 2 of them but not all.*hint"),
    "two groups in all": ("aligned", {"groups": ((0, 1, 2, 3, 4), (5, 6, 7, 8, 9))}, "hint: experts.num from 3 to 10"),
    "rare label": ("aligned", {"train_ids": np.arange(100, 150)}, "label . must have a sample for each of"),
    "even draws": ("dirichlet", {"alpha": 1000.0}, "gave 0 such clients of 3; hint: a smaller clients.alpha"),
    "no owners": ("natural", {"natural_N": None}, "needs data that names the owner"),
    "few owners": ("natural", {"num_clients": 58}, "58 normal training clients, got 60 owners .* 57 in the training"),
    "few testers": ("natural", {"num_unseen": 61}, "clients.unseen at most 60"),
    "no domains": ("domain", {"domain_N": None}, "needs a domain of every sample"),
    "few test samples": ("iid", {"test_ids": np.arange(TRAIN, TRAIN + 2)}, "got 2 for 3 clients; hint: .*unseen"),
    "few shards": ("shards", {"shards_per_client": 200}, "every shard must get a sample, got 2900 for 4000"),
    "covered shards": ("shards", {"shards_per_client": 1, "num_clients": 200}, "all 10 combinations of 1"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_deal_that_cannot_be_met_is_refused_with_a_hint(case: str) -> None:
    name, changes, message = BAD[case]
    with pytest.raises(SettingsError, match=message) as refusal:
        deal_out(name, make_deal(**changes))
    assert "hint: " in str(refusal.value)


def test_unseen_clients_share_combinations_where_too_few_are_left_and_that_is_said() -> None:
    deal = make_deal(num_unseen=8)
    shares = deal_out("aligned", deal)
    assert len({labels(deal, share) for share in shares.unseen}) == 3
    assert any("only 3 label combinations" in note for note in shares.notes)


def test_what_unseen_means_is_noted_where_labels_are_not_new() -> None:
    for name in ("iid", "domain", "natural", "shards"):
        assert any("unseen client" in note for note in deal_out(name, make_deal()).notes), name


@pytest.mark.parametrize("seed", SEEDS)
def test_domain_labels_gives_each_client_k_labels_of_one_domain_and_the_unseen_new_ones_there(seed: int) -> None:
    deal = make_deal(seed, num_unseen=6)
    assert deal.domain_N is not None
    shares = deal_out("domain_labels", deal)
    trained, fresh = set(), set()
    for kind, own in ((trained, shares.train), (fresh, shares.unseen)):
        for share in own:
            (domain,) = np.unique(deal.domain_N[share])
            assert len(labels(deal, share)) == deal.labels_per_client
            kind.add((int(domain), labels(deal, share)))
    assert {domain for domain, _ in trained} == {domain for domain, _ in fresh} == set(range(DOMAINS))
    assert trained.isdisjoint(fresh)


def test_domain_labels_serves_domains_in_which_nobody_unseen_lives() -> None:
    shares = deal_out("domain_labels", make_deal(num_unseen=2))
    assert len(shares.unseen) == 2
