"""The experiment on ReLA, small: attention gets sparse, is empty where nothing is to be seen, and nothing is lost."""

import pytest
import torch
from torch import nn

from benchmarks.theory.lookup import ASKING, KEYS, TELLING, VALUES, Lookup, LookupNet, lookups
from benchmarks.theory.rela import EXPERIMENT, aligned, attended, lookup_figures, without_norm
from fedmoe.moe.attention import GatedRMSNorm
from fedmoe.seeding import torch_stream


def some(count: int, seed: int) -> Lookup:
    return lookups(count, torch_stream(seed, "test"))


def test_lookups_are_learnt_as_well_and_sparsely() -> None:
    for seed in (0, 1):
        relu, softmax = (lookup_figures(row, seed, True) for row in ("ReLA", "softmax"))
        assert min(relu["lookup accuracy"], softmax["lookup accuracy"]) > 99
        assert relu["lookup zeros"] > 65
        assert relu["lookup aligned"] > 70
        assert relu["null, key absent"] > relu["null, key there"] + 5
        assert softmax["lookup zeros"] == softmax["null, key absent"] == 0
        assert relu["lookup parameters"] - softmax["lookup parameters"] == 64


@pytest.mark.parametrize("row", EXPERIMENT.rows)
def test_digits_are_learnt(row: str) -> None:
    figures = EXPERIMENT.measure(row, 0, True)
    assert figures["digits accuracy"] > 30
    assert (figures["digits zeros"] > 30) == (row != "softmax")


@pytest.mark.parametrize("seed", [0, 1])
def test_a_sequence_says_what_is_to_be_told(seed: int) -> None:
    task = some(300, seed)
    assert 0.45 < float((task.answers_BQ == VALUES).double().mean()) < 0.55
    for keys, values, answers, places in zip(*vars(task).values(), strict=True):
        told = dict(zip(keys[:TELLING].tolist(), values[:TELLING].tolist(), strict=True))
        assert len(told) == TELLING
        assert set(values[TELLING:].tolist()) == {VALUES}
        assert 0 <= int(keys.min()) <= int(keys.max()) < KEYS
        assert answers.tolist() == [told.get(key, VALUES) for key in keys[TELLING:].tolist()]
        found = [int(keys[place]) for place in places]
        assert all(f == k for f, k, a in zip(found, keys[TELLING:].tolist(), answers, strict=True) if a < VALUES)


def test_what_is_aligned_is_what_lies_on_the_right_token() -> None:
    task = some(50, 0)
    rows = torch.arange(50)[:, None], 1, torch.arange(ASKING), task.places_BQ
    weights = torch.zeros(50, 2, ASKING, TELLING + ASKING)
    assert aligned(weights, task) == 0
    weights[rows] = 3.0
    assert aligned(weights, task) == pytest.approx(100)
    weights += 0.5
    assert aligned(weights, task) == pytest.approx(100 * 3.5 / (3 + 0.5 * (TELLING + ASKING)))
    # a row of zeros has no say
    weights[:25] = 0
    assert aligned(weights, task) == pytest.approx(100 * 3.5 / (3 + 0.5 * (TELLING + ASKING)))


def test_what_is_attended_is_what_the_blocks_use_and_the_norm_can_go() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = LookupNet(8, 2, 2, "relu")
    task = some(4, 0)
    first, second = attended(net.blocks, net.tokens(task))
    attention = net.blocks[1].attention
    assert torch.equal(second, attention.weights(net.blocks[1].attention_norm(net.blocks[0](net.tokens(task)))))
    assert first.shape == second.shape == (4, 2, TELLING + ASKING, TELLING + ASKING)
    before = net(task)
    without_norm(net)
    assert not any(isinstance(module, GatedRMSNorm) for module in net.modules())
    assert isinstance(attention.norm, nn.Identity)
    assert not torch.allclose(net(task), before)
