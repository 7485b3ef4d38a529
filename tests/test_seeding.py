import numpy as np
import pytest
import torch

from fedmoe.seeding import derive_seed, numpy_stream, torch_stream

PATHS = [(), (0,), (1,), ("0",), ("client", 0), ("client", 1), ("client", "0"), ("client0",), ("client", 0, "round", 1),
         ("client", 0, "round", 2), ("round", 0, "client", 1), ("a", "b"), ("ab",), ("a\x1fb",)]  # fmt: skip


def test_every_root_and_path_has_a_seed_of_its_own() -> None:
    seeds = [derive_seed(root, *path) for root in range(50) for path in PATHS]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_seeds_spread_over_all_their_bits() -> None:
    seeds = [derive_seed(0, "client", client) for client in range(2000)]
    for bit in range(63):
        assert 850 < sum(seed >> bit & 1 for seed in seeds) < 1150


def test_seeds_are_the_same_on_every_machine_and_in_every_version() -> None:
    assert derive_seed(0) == 3_456_079_177_858_693_020
    assert derive_seed(7, "client", 3, "round", 2) == 1_453_026_062_648_662_805


def test_a_numpy_integer_is_an_integer_of_the_root() -> None:
    assert derive_seed(np.int64(5), "a") == derive_seed(5, "a")


@pytest.mark.parametrize("seed", range(3))
def test_a_stream_starts_anew_each_time(seed: int) -> None:
    one, two = numpy_stream(seed, "x", 1), numpy_stream(seed, "x", 1)
    one.random(3)
    assert one.random() != two.random()
    assert numpy_stream(seed, "x", 1).random(9).tolist() == numpy_stream(seed, "x", 1).random(9).tolist()
    first, second = torch_stream(seed, "x", 1), torch_stream(seed, "x", 1)
    assert torch.equal(torch.rand(9, generator=first), torch.rand(9, generator=second))
    other = torch_stream(seed, "x", 2)
    assert not torch.equal(torch.rand(9, generator=torch_stream(seed, "x", 1)), torch.rand(9, generator=other))


def test_no_global_generator_is_touched() -> None:
    states = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002 - the one not to be used
    numpy_stream(0, "x").random(5)
    torch.rand(5, generator=torch_stream(0, "x"))
    assert torch.equal(torch.random.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])  # noqa: NPY002
