"""Laws of grouping clients by fingerprints: planted groups are found, none where there are none."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.linalg import eigh

from fedmoe.data.fingerprints import Fingerprints
from fedmoe.federation.grouping import RIDGE, ClientPrint, chance_ratio, find_groups, print_of, telling

WIDTH, CLIENTS, SAMPLES = 12, 40, 60


def planted(seed: int, groups: int, apart: float = 1.5) -> tuple[dict[int, ClientPrint], np.ndarray]:
    """Returns prints of clients in groups whose means lie apart, under a covariance that is not round."""
    rng = np.random.default_rng(seed)
    mix = rng.standard_normal((WIDTH, WIDTH)) * np.geomspace(10, 0.1, WIDTH)
    # Corners of a simplex in random directions: any two are equally far apart, and they span groups - 1 directions.
    basis = np.linalg.qr(rng.standard_normal((WIDTH, groups)))[0].T * apart * np.sqrt(groups)
    group_S = rng.permutation(np.arange(CLIENTS) % groups)
    prints = {
        10 + client: print_of(((rng.standard_normal((SAMPLES, WIDTH)) + basis[group]) @ mix).astype(np.float32))
        for client, group in enumerate(group_S)
    }
    return prints, group_S


def same_partition(one: np.ndarray, two: np.ndarray) -> bool:
    return bool(((one[:, None] == one) == (two[:, None] == two)).all())


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("groups", [1, 2, 3, 5])
def test_as_many_groups_are_found_as_were_planted_and_the_right_clients_in_each(groups: int, seed: int) -> None:
    prints, group_S = planted(seed, groups)
    found = find_groups(prints, 8, 0.1, 2.0, seed)
    assert found.num == groups
    assert same_partition(np.array([found.of[client] for client in sorted(prints)]), group_S)
    assert telling(np.array(found.ratios), 8, 0.1, 2.0) == groups - 1


@pytest.mark.parametrize("seed", range(3))
def test_no_more_groups_than_the_pool_has_experts(seed: int) -> None:
    prints, _ = planted(seed, 5)
    found = find_groups(prints, 3, 0.1, 2.0, seed)
    assert found.num == 3
    assert found.weight_MD.shape == (3, WIDTH)


@pytest.mark.parametrize("samples", [5, 10, 60])
def test_chance_alone_makes_no_groups_however_few_samples_a_client_has(samples: int) -> None:
    for seed in range(10):
        rng = np.random.default_rng(seed)
        prints = {i: print_of(rng.standard_normal((samples, WIDTH)).astype(np.float32)) for i in range(CLIENTS)}
        assert find_groups(prints, 5, 0.1, 2.0, seed).num == 1


@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
def test_chance_alone_makes_no_groups_of_clients_of_unequal_sizes(share: float) -> None:
    for seed in range(10):
        rng = np.random.default_rng(seed)
        sizes = np.where(rng.random(CLIENTS) < share, 1, SAMPLES)
        prints = {i: print_of(rng.standard_normal((n, WIDTH)).astype(np.float32)) for i, n in enumerate(sizes)}
        assert find_groups(prints, 5, 0.1, 2.0, seed).num == 1


@pytest.mark.parametrize(
    ("ratios", "axes"),
    [
        ([], 0),
        ([0.09, 0.0], 0),
        ([0.3, 0.2, 0.15, 0.12, 0.1], 0),
        ([0.46, 0.21, 0.18, 0.16, 0.03], 4),
        ([22.6, 2.1, 1.2, 0.8, 0.3, 0.2, 0.15, 0.12, 0.09], 4),
        ([22.6, 2.1, 1.2, 1.1, 0.7, 0.6, 0.4, 0.3, 0.2, 0.15], 4),
        ([22.6, 0.9, 0.8, 0.7, 0.6, 0.4, 0.3, 0.2, 0.15, 0.1], 1),
        ([0.9, 0.4, 0.35, -0.01], 3),
        ([0.2], 0),
        ([0.12, 0.118, 0.115], 0),
        ([3.0, 2.0], 2),
    ],
)
def test_what_stands_out_is_above_the_last_gap_or_above_one(ratios: list[float], axes: int) -> None:
    assert telling(np.array(ratios), 10, threshold=0.1, gap=2.0) == axes
    assert telling(np.array(ratios), 3, threshold=0.1, gap=2.0) <= 2
    assert telling(np.array(ratios), 10, threshold=50.0, gap=2.0) == 0
    assert telling(np.array(ratios), 1, threshold=0.1, gap=2.0) == 0


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("clients", [2, 3, 4, 8])
def test_a_handful_of_clients_that_do_not_differ_are_one_group(clients: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    prints = {i: print_of(rng.standard_normal((SAMPLES, WIDTH)).astype(np.float32)) for i in range(clients)}
    assert find_groups(prints, 5, 0.1, 2.0, seed).num == 1


@pytest.mark.parametrize("seed", range(10))
def test_a_small_client_that_lies_far_out_makes_no_group(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = [400] * CLIENTS + [11]
    away = [0.2 * rng.standard_normal(WIDTH) for _ in range(CLIENTS)] + [1.5 * rng.standard_normal(WIDTH)]
    values = [(rng.standard_normal((n, WIDTH)) + a).astype(np.float32) for n, a in zip(sizes, away, strict=True)]
    assert find_groups({i: print_of(own) for i, own in enumerate(values)}, 5, 0.1, 2.0, seed).num == 1


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("apart", [0.7, 0.8])
def test_groups_that_lie_close_are_counted_where_nothing_else_tells_clients_apart(seed: int, apart: float) -> None:
    prints, group_S = planted(seed, 5, apart)
    found = find_groups(prints, 8, 0.1, 2.0, seed)
    assert max(found.ratios) < 1
    assert found.num == 5
    assert same_partition(np.array([found.of[client] for client in sorted(prints)]), group_S)


@pytest.mark.parametrize("seed", range(3))
def test_a_client_of_few_samples_is_put_to_the_nearest_group(seed: int) -> None:
    prints, group_S = planted(seed, 3, apart=4.0)
    few = {
        client: ClientPrint(own.mean_D, own.covariance_DD, 3) if client < 15 else own for client, own in prints.items()
    }
    found = find_groups(few, 5, 0.1, 2.0, seed)
    assert same_partition(np.array([found.of[client] for client in sorted(few)]), group_S)


@pytest.mark.parametrize("seed", range(3))
def test_an_expert_without_a_group_is_never_named_however_far_away_a_client_lies(seed: int) -> None:
    prints, _ = planted(seed, 2, apart=150.0)
    found = find_groups(prints, 5, 0.1, 2.0, seed)
    assert found.num == 2
    for own in prints.values():
        for away in (own.mean_D, own.mean_D * 50, own.mean_D + 1000):
            assert (found.weight_MD @ away + found.bias_M).argmax() < 2


@pytest.mark.parametrize("seed", range(4))
def test_label_skew_makes_no_groups_of_fingerprints_but_of_embeddings(seed: int) -> None:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 6, 6000)
    centre = rng.standard_normal((6, WIDTH)) * 3
    embeddings = (centre[y] + rng.standard_normal((6000, WIDTH))).astype(np.float32)
    logits = (4 * np.eye(6)[y] + rng.standard_normal((6000, 6))).astype(np.float32)
    left = Fingerprints.fitted(embeddings[:1000], logits[:1000]).of(embeddings, logits)
    held = [np.isin(y, rng.choice(6, 2, replace=False)).nonzero()[0] for _ in range(CLIENTS)]
    chosen = [rng.choice(ids, SAMPLES) for ids in held]
    alike, apart = (
        find_groups({i: print_of(values[ids]) for i, ids in enumerate(chosen)}, 5, 0.1, 2.0, seed)
        for values in (left, embeddings)
    )
    assert alike.num == 1
    assert apart.num > 1


@pytest.mark.parametrize(("clients", "samples", "width"), [(60, 20, 30), (100, 400, 64), (200, 5, 50), (40, 4, 40)])
def test_chance_reaches_what_the_formula_says(clients: int, samples: int, width: int) -> None:
    reached = []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        samples_SND = rng.standard_normal((clients, samples, width))
        means = samples_SND.mean(axis=1)
        within = np.mean([np.cov(own.T) for own in samples_SND], axis=0)
        reached.append(eigh(np.cov(means.T, bias=True), within, eigvals_only=True)[-1])
    assert np.mean(reached) == pytest.approx(chance_ratio([samples] * clients, width), rel=0.15)


def test_with_fewer_samples_than_features_nothing_is_known() -> None:
    assert chance_ratio([1, 1, 3], 2) == float("inf")


@pytest.mark.parametrize("unequal", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_the_ratios_are_the_generalised_eigenvalues_less_chance(seed: int, unequal: bool) -> None:
    prints, _ = planted(seed, 3)
    if unequal:
        prints = {c: replace(own, num=20 + 3 * i) for i, (c, own) in enumerate(sorted(prints.items()))}
    sizes = [prints[client].num for client in sorted(prints)]
    means = [prints[client].mean_D for client in sorted(prints)]
    middle = sum(n * mean for n, mean in zip(sizes, means, strict=True)) / sum(sizes)
    between = sum(n * np.outer(m - middle, m - middle) for n, m in zip(sizes, means, strict=True)) / sum(sizes)
    within = sum((own.num - 1) * own.covariance_DD for own in prints.values()) / (sum(sizes) - len(sizes))
    within += RIDGE * np.trace(within) / WIDTH * np.eye(WIDTH)
    slow = np.sort(np.linalg.eigvals(np.linalg.inv(within) @ between).real)[::-1]
    chance = chance_ratio(sizes, WIDTH)
    np.testing.assert_allclose(find_groups(prints, 5, 0.1, 2.0, 0).ratios, (slow - chance)[:5], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_the_discriminants_tell_a_new_client_and_a_coordinate_system_changes_nothing(seed: int) -> None:
    prints, group_S = planted(seed, 4)
    known = dict(sorted(prints.items())[:30])
    turn = np.random.default_rng(seed).standard_normal((WIDTH, WIDTH)) + 3 * np.eye(WIDTH)
    for matrix in (np.eye(WIDTH), turn):
        turned = {
            c: ClientPrint(p.mean_D @ matrix, matrix.T @ p.covariance_DD @ matrix, p.num) for c, p in prints.items()
        }
        found = find_groups({client: turned[client] for client in known}, 4, 0.1, 2.0, seed)
        told = np.array([int((found.weight_MD @ turned[c].mean_D + found.bias_M).argmax()) for c in sorted(prints)])
        assert same_partition(told, group_S)
        assert [told[n] for n, c in enumerate(sorted(prints)) if c in known] == [found.of[c] for c in sorted(known)]


@pytest.mark.parametrize("num", [1, 2, 30])
def test_a_print_is_mean_and_covariance_and_travels_as_numbers(num: int) -> None:
    values = np.random.default_rng(num).standard_normal((num, 5)).astype(np.float32)
    own = print_of(values)
    np.testing.assert_allclose(own.mean_D, values.mean(axis=0), rtol=1e-5, atol=1e-7)
    wanted = np.cov(values.T.astype(np.float64)) if num > 1 else np.zeros((5, 5))
    np.testing.assert_allclose(own.covariance_DD, wanted, atol=1e-12)
    numbers = own.numbers()
    assert len(numbers) == ClientPrint.values_of(5)
    back = ClientPrint.from_numbers(numbers)
    np.testing.assert_allclose(back.mean_D, own.mean_D, rtol=1e-6)
    np.testing.assert_allclose(back.covariance_DD, own.covariance_DD, rtol=1e-6, atol=1e-30)
    assert back.num == num
    assert back.numbers() == numbers, "what travels is what was rounded"


def test_a_single_client_has_nobody_to_differ_from() -> None:
    with pytest.raises(ValueError, match="got 1 client"):
        find_groups({3: print_of(np.zeros((2, 2), np.float32))}, 2, 0.1, 2.0, 0)
