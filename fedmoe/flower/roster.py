"""Who is there: the SuperNodes of the federation, in the order of their partition ids."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flwr.app import Message
from flwr.serverapp import Grid

from fedmoe.errors import RoundError
from fedmoe.flower.local_grid import LocalGrid
from fedmoe.flower.wire import decode, encode

__all__ = ["Roster", "call_roster", "exchange"]

PATIENCE = 120.0  # seconds to wait for the federation's nodes to register


@dataclass(frozen=True)
class Roster:
    """The nodes.

    Attributes:
        node_ids: Flower's ids, which are random, in the order of partition ids, which are not.
        devices: each node's device.
        cores: cores that a node's process may use.
        cpus: cores that Flower's engine booked for it; 0 in process.
        busy: cores that a working node keeps busy.
        at_once: nodes that can work at the same time, where it is known; 0: all.
    """

    node_ids: Sequence[int]
    devices: Sequence[str]
    cores: int
    cpus: int
    busy: int
    at_once: int = 0

    @property
    def working(self) -> Sequence[int]:
        """Returns the nodes that get work: where one must wait for another, the other does its work as well."""
        return self.node_ids[: self.at_once or None]


def exchange(
    grid: Grid, message_type: str, group: str, orders: Mapping[int, Any], timeout: float | None = None
) -> dict[int, Message]:
    """Sends each node its order and returns the replies by node id; a node that did not answer in time is missing.

    Args:
        grid: Flower's.
        message_type: `"query.rank"`, `"train"` and the like.
        group: the round, for Flower's records.
        orders: node id -> content, or a function that gives it (so that only one is in memory at a time).
        timeout: seconds to wait for all of them; `None`: no limit.
    """
    messages = (
        Message(
            content=content() if callable(content) else content,
            dst_node_id=node_id,
            message_type=message_type,
            group_id=group,
        )
        for node_id, content in orders.items()
    )
    replies = grid.send_and_receive(messages, timeout=timeout)
    return {reply.metadata.src_node_id: reply for reply in replies}


def call_roster(grid: Grid) -> Roster:
    """Returns the roster, once all nodes of the federation have registered.

    Raises:
        RoundError: no node registered in time, or one could not say who it is.
    """
    deadline = time.monotonic() + PATIENCE
    node_ids: list[int] = []
    while True:
        node_ids = sorted(grid.get_node_ids())
        if node_ids:
            replies = exchange(grid, "query.hello", "0", {node_id: encode({}, {}) for node_id in node_ids}, PATIENCE)
            broken = [reply.error.reason for reply in replies.values() if reply.has_error()]
            if broken:
                raise RoundError(f"a node cannot start: {broken[0]}")
            hellos = {node_id: decode(reply)[0] for node_id, reply in replies.items()}
            expected = max((hello["num_partitions"] for hello in hellos.values()), default=0)
            if len(hellos) >= max(1, expected):
                break
        if time.monotonic() > deadline:
            raise RoundError(f"the federation's nodes must register within {PATIENCE:.0f} s, got {len(node_ids)}")
        time.sleep(0.1)
    ordered = sorted(hellos, key=lambda node_id: hellos[node_id]["partition_id"])
    devices = tuple(str(hellos[node_id]["device"]) for node_id in ordered)
    cores, cpus, busy = (max(int(hellos[node_id][name]) for node_id in ordered) for name in ("cores", "cpus", "busy"))
    if isinstance(grid, LocalGrid):
        at_once = grid.at_once
    else:  # on one machine Flower's engine lets nodes work as far as the cores go that it books for each
        one_machine = cpus > 0 and len({hello["host"] for hello in hellos.values()}) == 1
        at_once = max(1, cores // cpus) if one_machine and set(devices) == {"cpu"} else 0
    return Roster(
        node_ids=tuple(ordered),
        devices=devices,
        cores=cores,
        cpus=cpus,
        busy=busy,
        at_once=at_once,
    )
