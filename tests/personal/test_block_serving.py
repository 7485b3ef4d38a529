"""A stack served with its experts on a shelf: by a simulated clock it takes what the formulas say, by whatever way."""

import threading
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fedmoe.moe.pre_gated import PreGatedStack
from fedmoe.personal.block_serving import WAYS, SimulatedCourier, seconds_of, serve_blocks
from fedmoe.personal.shelf import DiskShelf, Key, MemoryShelf, Prefetcher, SlowShelf

STREAM = 7


def stack_of(seed: int, blocks: int = 3, experts: int = 4, ahead: bool = True) -> PreGatedStack:
    return PreGatedStack(5, 3, blocks=blocks, experts=experts, features=8, hidden=6, seed=seed, ahead=ahead).eval()


def samples(seed: int) -> Tensor:
    return torch.randn(STREAM, 1, 5, generator=torch.Generator().manual_seed(seed))


def of_stack(stack: PreGatedStack, key: Key) -> Mapping[str, Tensor]:
    return stack.experts[key[0]][key[1]].state_dict()  # type: ignore[index]


def simulated(way: str, stack: PreGatedStack, c: float, t: float) -> tuple[list[float], int]:
    """Returns when each sample is done, and the most experts in memory."""
    courier = SimulatedCourier(lambda key: of_stack(stack, key), t)

    def compute(block: int, h_BD: Tensor, expert: Mapping[str, Tensor], p_B: Tensor) -> Tensor:
        courier.now += c
        return stack.add(block, h_BD, expert, p_B)

    ends = [courier.now for _ in serve_blocks(stack, courier, iter(samples(0)), way, compute)]
    return ends, courier.peak


@pytest.mark.parametrize(("c", "t"), [(1.0, 0.1), (1.0, 1.0), (1.0, 2.5), (0.5, 4.0), (3.0, 0.7)])
@pytest.mark.parametrize(("blocks", "pool"), [(2, 1), (3, 4), (6, 8)])
@pytest.mark.parametrize("way", WAYS)
def test_by_the_clock_a_sample_takes_what_the_formula_says(
    way: str, blocks: int, pool: int, c: float, t: float
) -> None:
    ends, peak = simulated(way, stack_of(1, blocks, pool), c, t)
    wanted = seconds_of(way, blocks, pool, c, t)
    steps = [later - earlier for earlier, later in pairwise(ends)]
    assert steps == pytest.approx([wanted] * len(steps))
    first = {"all_ahead": pool * t + (blocks - 1) * max(c, pool * t) + c}.get(way, wanted)
    assert ends[0] == pytest.approx(first), "before the first sample nothing is there"
    assert peak == {"on_demand": 1, "all_ahead": 2 * pool, "pre_gated": 2}[way]


@pytest.mark.parametrize(("c", "t"), [(1.0, 0.3), (1.0, 1.0), (2.0, 1.0)])
def test_where_a_block_takes_as_long_as_a_transfer_the_papers_formula_is_ours(c: float, t: float) -> None:
    blocks, pool = 12, 8
    assert seconds_of("pre_gated", blocks, pool, c, t) == pytest.approx(t + blocks * max(c, t))
    assert seconds_of("pre_gated", blocks, pool, t, c) <= c + blocks * max(c, t)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("ahead", [True, False])
def test_whatever_way_experts_come_the_answer_is_that_of_the_whole_stack(
    tmp_path: Path, seed: int, ahead: bool
) -> None:
    stack, x_N1F = stack_of(seed, ahead=ahead), samples(seed)
    with torch.no_grad():
        wanted = stack(x_N1F[:, 0])[0]
    disk, memory = DiskShelf(tmp_path), MemoryShelf()
    for block in range(stack.blocks):
        for expert in range(stack.pool):
            for shelf in (disk, memory):
                shelf.put((block, expert), stack.experts[block][expert])  # type: ignore[index]
    for way in WAYS if ahead else WAYS[:2]:
        for shelf in (disk, memory):
            with Prefetcher(shelf) as courier:
                found = torch.cat(list(serve_blocks(stack, courier, iter(x_N1F), way)))
            torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


def test_a_pre_gate_reads_what_the_block_before_reads() -> None:
    own, ahead = stack_of(0, ahead=False), stack_of(0, ahead=True)
    ahead.load_state_dict(own.state_dict())
    x_BF = samples(3)[:, 0]
    with torch.no_grad():
        h_BD = own.enter(x_BF)
        for stack in (own, ahead):
            scores = stack(x_BF)[1]
            torch.testing.assert_close(scores[0], own.gates[0](h_BD))
        torch.testing.assert_close(ahead(x_BF)[1][1], own.gates[1](h_BD))
        assert not torch.allclose(own(x_BF)[1][1], own.gates[1](h_BD))


def test_every_gate_learns_and_so_do_the_experts_that_are_chosen() -> None:
    stack = stack_of(2)
    logits_BC, scores = stack(samples(1)[:, 0])
    logits_BC.logsumexp(dim=1).sum().backward()
    for block, gate in enumerate(stack.gates):
        assert gate.weight.grad.abs().sum() > 0  # type: ignore[union-attr]
        used = set(scores[block].argmax(dim=1).tolist())
        for number, expert in enumerate(stack.experts[block]):  # type: ignore[arg-type]
            moved = sum(float(p.grad.abs().sum()) for p in expert.parameters())
            assert (moved > 0) == (number in used)


class Gate:
    """A shelf that gives an expert only when it is let through, and tells who fetched."""

    def __init__(self) -> None:
        self.open, self.threads = threading.Event(), list[str]()

    def fetch(self, key: Key) -> Mapping[str, Tensor]:
        self.threads.append(threading.current_thread().name)
        assert self.open.wait(10)
        return {"x": torch.tensor(key)}


def test_it_fetches_beside_the_work_and_each_expert_once() -> None:
    shelf = Gate()
    with Prefetcher(shelf) as courier:
        courier.ask((0, 1))
        courier.ask((0, 1))
        courier.ask((1, 2))
        assert courier.peak == 2, "asking does not wait"
        shelf.open.set()
        assert courier.take((1, 2))["x"].tolist() == [1, 2]
        assert courier.take((0, 1))["x"].tolist() == [0, 1]
        courier.drop(lambda key: key[0] == 1)
        courier.take((0, 1))
    assert len(shelf.threads) == 3, "what was dropped is fetched anew"
    assert {name.split("_")[0] for name in shelf.threads} == {"prefetch"}


@pytest.mark.parametrize(
    "device", ["cpu", "meta", pytest.param("cuda", marks=pytest.mark.skipif("not torch.cuda.is_available()"))]
)
def test_what_is_taken_lies_on_the_device_and_what_is_on_the_shelf_stays(device: str) -> None:
    stack, shelf = stack_of(0), MemoryShelf()
    shelf.put((0, 0), stack.experts[0][0])  # type: ignore[index]
    with Prefetcher(shelf, device) as courier:
        taken = courier.take((0, 0))
    assert {value.device.type for value in taken.values()} == {device}
    assert {value.device.type for value in shelf.fetch((0, 0)).values()} == {"cpu"}
    for name, value in taken.items():
        assert value.shape == of_stack(stack, (0, 0))[name].shape
        assert device == "meta" or torch.equal(value.cpu(), of_stack(stack, (0, 0))[name])


class Never(Prefetcher):
    """Fetches only what is waited for."""

    def ask(self, key: Key) -> None:
        pass

    def take(self, key: Key) -> Mapping[str, Tensor]:
        return self.shelf.fetch(key)


class Seen(MemoryShelf):
    """A shelf that says whose turn has come."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.came = [threading.Event() for _ in range(blocks)]

    def fetch(self, key: Key) -> Mapping[str, Tensor]:
        found = super().fetch(key)
        self.came[key[0]].set()
        return found


def came_meanwhile(kind: type[Prefetcher], way: str, patience: float) -> list[bool]:
    """Returns for each block but the last whether an expert of the next one came while it was computing."""
    stack = stack_of(0, blocks=4, ahead=way == "pre_gated")
    shelf, found = Seen(4), list[bool]()
    for block in range(4):
        for expert in range(stack.pool):
            shelf.put((block, expert), stack.experts[block][expert])  # type: ignore[index]

    def compute(block: int, h_BD: Tensor, expert: Mapping[str, Tensor], p_B: Tensor) -> Tensor:
        if block < 3:
            found.append(shelf.came[block + 1].wait(patience))
        return stack.add(block, h_BD, expert, p_B)

    with kind(shelf) as courier:
        list(serve_blocks(stack, courier, iter(samples(0)[:1]), way, compute))
    return found


def test_experts_come_while_the_block_before_them_computes() -> None:
    assert came_meanwhile(Prefetcher, "pre_gated", 30.0) == [True] * 3
    assert came_meanwhile(Prefetcher, "on_demand", 0.02) == [False] * 3
    assert came_meanwhile(Never, "pre_gated", 0.02) == [False] * 3, "the test tells one that never overlaps"


@pytest.mark.parametrize(("blocks", "pool"), [(2, 1), (3, 4), (6, 8)])
def test_where_a_transfer_takes_as_long_as_a_block_pre_gating_is_faster_by_all_transfers_but_one(
    blocks: int, pool: int
) -> None:
    stack = stack_of(1, blocks, pool)
    seconds = {way: simulated(way, stack, 1.0, 1.0)[0][0] for way in ("on_demand", "pre_gated")}
    assert seconds["on_demand"] - seconds["pre_gated"] == pytest.approx(blocks - 1)


def test_a_slow_shelf_gives_what_the_shelf_gives_and_what_it_raises_is_heard(tmp_path: Path) -> None:
    disk = DiskShelf(tmp_path)
    stack = stack_of(0)
    disk.put((0, 0), stack.experts[0][0])  # type: ignore[index]
    slow = SlowShelf(disk, 0.001)
    for name, value in slow.fetch((0, 0)).items():
        assert torch.equal(value, of_stack(stack, (0, 0))[name])
    with Prefetcher(slow) as courier, pytest.raises(FileNotFoundError):
        courier.take((0, 3))


def test_a_way_that_there_is_not_and_gates_that_do_not_choose_ahead_are_refused() -> None:
    stack = stack_of(0, ahead=False)
    courier = SimulatedCourier(lambda key: of_stack(stack, key), 1.0)
    for way in ("pre_gated", "by magic"):
        with pytest.raises(ValueError, match="the way must be one of"):
            next(serve_blocks(stack, courier, iter(samples(0)), way))
    with pytest.raises(ValueError, match="a stack has blocks and experts"):
        stack_of(0, blocks=0)
