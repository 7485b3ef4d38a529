"""A stack of blocks served with its experts on a shelf: three ways to get them, and how long each should take."""

from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

import torch
from torch import Tensor

from fedmoe.moe.pre_gated import PreGatedStack
from fedmoe.personal.shelf import Key

__all__ = ["WAYS", "Compute", "Courier", "SimulatedCourier", "seconds_of", "serve_blocks"]

WAYS = ("on_demand", "all_ahead", "pre_gated")
Compute = Callable[[int, Tensor, Mapping[str, Tensor], Tensor], Tensor]
"""Block, what it reads, its expert's tensors, the choice's probability -> what it gives."""


class Courier(Protocol):
    """Who fetches experts: `Prefetcher`, or `SimulatedCourier`."""

    def ask(self, key: Key) -> None:
        """Has the expert fetched, unless it is here or on its way; does not wait."""
        ...

    def take(self, key: Key) -> Mapping[str, Tensor]:
        """Returns the expert's tensors once they are here."""
        ...

    def drop(self, keep: Callable[[Key], bool]) -> None:
        """Forgets all experts but those to keep."""
        ...


@torch.no_grad()
def serve_blocks(
    stack: PreGatedStack, courier: Courier, samples: Iterator[Tensor], way: str, compute: Compute | None = None
) -> Iterator[Tensor]:
    """Yields logits_1C of each sample, one after another.

    - `on_demand`: a block's expert is asked for when the block before it is done, and waited for.
    - `all_ahead`: while a block computes, all experts of the next one are fetched, of the last one those of the first.
    - `pre_gated`: while a block computes, the one expert of the next one is fetched: a pre-gate has chosen it already.

    Args:
        stack: which; `pre_gated` needs one whose gates choose `ahead`.
        courier: who fetches.
        samples: each (1, F).
        way: one of `WAYS`.
        compute: what a block does; `None`: `stack.add`.

    Raises:
        ValueError: an unknown way, or a stack whose gates do not choose ahead for `pre_gated`.
    """
    if way not in WAYS or (way == "pre_gated" and not stack.ahead):
        raise ValueError(
            f"the way must be one of {', '.join(WAYS)}, the last for a stack with ahead=True, got '{way}' and "
            f"ahead={stack.ahead}"
        )
    work, blocks = compute or stack.add, stack.blocks
    for x_1F in samples:
        h_1D = stack.enter(x_1F)
        ids_1, p_1 = stack.choose(0, h_1D)
        for block in range(blocks):
            own, following = (block, int(ids_1)), (block + 1) % blocks
            if way == "all_ahead":
                fetch_all(courier, block, stack.pool, wait=True)
                fetch_all(courier, following, stack.pool)
            expert = courier.take(own)
            last, read_1D, own_p_1 = block + 1 == blocks, h_1D, p_1
            if stack.ahead and not last:
                ids_1, p_1 = stack.choose(following, read_1D)
                if way == "pre_gated":
                    courier.ask((following, int(ids_1)))
            h_1D = work(block, read_1D, expert, own_p_1)
            ahead = (following,) if way == "all_ahead" or (way == "pre_gated" and not last) else ()
            courier.drop(lambda key, ahead=ahead: key[0] in ahead)  # type: ignore[misc]
            if not stack.ahead and not last:
                ids_1, p_1 = stack.choose(following, h_1D)
        yield stack.head(h_1D)


def fetch_all(courier: Courier, block: int, pool: int, *, wait: bool = False) -> None:
    """Has all experts of a block fetched."""
    for expert in range(pool):
        courier.ask((block, expert))
    for expert in range(pool if wait else 0):
        courier.take((block, expert))


def seconds_of(way: str, blocks: int, pool: int, compute: float, transfer: float) -> float:
    """Returns how long a sample takes, with one transfer at a time and one computation beside it.

    `on_demand`: L (c + t). `all_ahead`: L max(c, M t), in a stream of samples. `pre_gated`: t + (L - 1) max(c, t) + c,
    for nothing is fetched while the last block computes; where c >= t that is t + L max(c, t).

    Args:
        way: one of `WAYS`.
        blocks: L.
        pool: M.
        compute: c, seconds of a block.
        transfer: t, seconds of an expert.
    """
    return {
        "on_demand": blocks * (compute + transfer),
        "all_ahead": blocks * max(compute, pool * transfer),
        "pre_gated": transfer + (blocks - 1) * max(compute, transfer) + compute,
    }[way]


class SimulatedCourier:
    """A courier by the clock of a simulation: a transfer takes a given time, and comes after those asked for before it.

    Args:
        fetch: gives an expert's tensors.
        transfer: seconds of an expert.

    Attributes:
        now: seconds since the start; whoever computes moves it on.
        peak: the most experts that were in memory, or on their way, at once.
    """

    def __init__(self, fetch: Callable[[Key], Mapping[str, Tensor]], transfer: float) -> None:
        self.fetch, self.transfer = fetch, transfer
        self.now = self._free = 0.0
        self.peak = 0
        self._ready: dict[Key, float] = {}

    def ask(self, key: Key) -> None:
        """Has the expert fetched, unless it is here or on its way."""
        if key not in self._ready:
            self._free = self._ready[key] = max(self.now, self._free) + self.transfer
            self.peak = max(self.peak, len(self._ready))

    def take(self, key: Key) -> Mapping[str, Tensor]:
        """Returns the expert's tensors, at the earliest when they are here."""
        self.ask(key)
        self.now = max(self.now, self._ready[key])
        return self.fetch(key)

    def drop(self, keep: Callable[[Key], bool]) -> None:
        """Forgets all experts but those to keep."""
        self._ready = {key: ready for key, ready in self._ready.items() if keep(key)}
