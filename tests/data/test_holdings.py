"""Flat arrays that answer as a tuple of arrays, one a holder, would."""

import numpy as np
import pytest

import fedmoe.data.holdings as module
from fedmoe.data.holdings import Holdings

CLASSES = 7
SEEDS = range(5)


def ragged(seed: int, holders: int = 30) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
    """Returns shares of very different sizes, some of them empty, and a label for every sample."""
    rng = np.random.default_rng(seed)
    labels_N = rng.integers(0, CLASSES, 400)
    return tuple(rng.choice(400, rng.integers(0, 40) * rng.integers(0, 2)) for _ in range(holders)), labels_N


@pytest.mark.parametrize("seed", SEEDS)
def test_it_is_a_sequence_of_each_holders_samples(seed: int) -> None:
    shares, _ = ragged(seed)
    held = Holdings.of(shares)
    assert len(held) == len(shares)
    for got in (list(held), [held[at] for at in range(len(held))], [held[at - len(held)] for at in range(len(held))]):
        assert [share.tolist() for share in got] == [share.tolist() for share in shares]
    assert held.sizes.tolist() == [len(share) for share in shares]
    assert all(share.dtype == np.int64 for share in held)
    for wrong in (len(shares), -len(shares) - 1):
        with pytest.raises(IndexError):
            held[wrong]
    assert Holdings.of(held) is held


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("cut", [slice(None), slice(3), slice(3, 12), slice(-4, None), slice(9, 2), slice(30, 99)])
def test_a_slice_is_what_it_is_of_a_tuple(seed: int, cut: slice) -> None:
    shares, _ = ragged(seed)
    some = Holdings.of(shares)[cut]
    assert [share.tolist() for share in some] == [share.tolist() for share in shares[cut]]
    assert len(some.ids) == sum(map(len, shares[cut])), "the flat array is that of the slice alone"
    with pytest.raises(ValueError, match="steps of 1"):
        Holdings.of(shares)[::2]


@pytest.mark.parametrize("seed", SEEDS)
def test_joined_and_sorted(seed: int) -> None:
    shares, _ = ragged(seed)
    held = Holdings.of(shares)
    for at in (0, 11, len(shares)):
        joined = Holdings.joined([held[:at], held[at:]])
        assert (joined.ids.tolist(), joined.starts.tolist()) == (held.ids.tolist(), held.starts.tolist())
    assert [share.tolist() for share in held.sorted()] == [sorted(share.tolist()) for share in shares]
    assert held.ids.tolist() == np.concatenate(shares).tolist(), "what is sorted is a copy"


@pytest.mark.parametrize("rows", [1, 4, 8192])
@pytest.mark.parametrize("seed", SEEDS)
def test_labels_are_those_of_each_holder(seed: int, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROWS", rows)
    shares, labels_N = ragged(seed)
    held = Holdings.of(shares)
    assert list(held.label_sets(labels_N)) == [tuple(np.unique(labels_N[share]).tolist()) for share in shares]
    counts = [np.bincount(labels_N[share], minlength=CLASSES).tolist() for share in shares]
    assert held.label_counts(labels_N, CLASSES).tolist() == counts
    told = [number for share in shares for number in (len(share), *share.tolist())]
    assert np.concatenate(list(held.pieces())).tolist() == told


def test_nobody_holds_nothing() -> None:
    held = Holdings.of([])
    assert (len(held), list(held), list(held.label_sets(np.arange(3))), list(held.pieces())) == (0, [], [], [])
