"""The ClientApp: a SuperNode does the work of a whole cohort of clients, one message each way."""

import json
import platform
import threading
from functools import lru_cache
from typing import Any

import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedmoe.flower.crew import Crew
from fedmoe.flower.devices import booked_cores, choose_device, set_up_torch, usable_cores, worker_count
from fedmoe.flower.node import Node
from fedmoe.flower.plain import is_plain, plan_of, reply_to_evaluate, reply_to_train
from fedmoe.flower.wire import decode, encode
from fedmoe.settings import Settings, from_flat

__all__ = ["app"]

app = ClientApp()

_crews: dict[tuple[str, str, int], Crew] = {}
"""(run, device, node) -> node and workers; of the newest run only: memory must not grow."""

SHARED = -1


@app.query("hello")
def hello(message: Message, context: Context) -> Message:
    """Replies who this node is: partition id, how many there are, its device, its cores.

    `cpus`: those that Ray booked for it; `busy`: those that its workers keep busy.
    """
    settings = _settings(context)
    partition_id = _partition_id(context)
    device = _device(settings.train.device, partition_id)
    reply = {
        "partition_id": partition_id,
        "num_partitions": int(context.node_config.get("num-partitions", 0)),
        "cpus": booked_cores(),
        "device": str(device),
        "cores": usable_cores(),
        "host": platform.node(),
        "busy": worker_count(settings.train.workers, settings.train.threads, device) * settings.train.threads,
    }
    return Message(encode(reply, {}), reply_to=message)


@app.query("rank")
def rank(message: Message, context: Context) -> Message:
    """Replies each client's score of every expert."""
    order, arrays = decode(message)
    return Message(encode(_crew(order, context).rank(order, arrays), {}), reply_to=message)


@app.query("measure")
def measure(message: Message, context: Context) -> Message:
    """Replies which trainer is the fastest here for the jobs of the order."""
    order, arrays = decode(message)
    return Message(encode(_crew(order, context).measure(order, arrays), {}), reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Replies the sums of the cohort's updates; to a plain Flower strategy, the average of a cohort of its own."""
    if is_plain(message):
        return reply_to_train(message, context, _crew({"plan": plan_of(message)[0]}, context))
    order, arrays = decode(message)
    report, sums = _crew(order, context).train(order, arrays)
    return Message(encode(report, sums), reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Replies how the unseen clients of this cohort fare."""
    if is_plain(message):
        return reply_to_evaluate(message, context, _crew({"plan": plan_of(message)[0]}, context).node)
    order, arrays = decode(message)
    return Message(encode(_crew(order, context).evaluate(order, arrays), {}), reply_to=message)


def _settings(context: Context) -> Settings:
    return _checked(tuple(sorted(context.run_config.items())))


@lru_cache
def _device(asked: str, partition_id: int) -> torch.device:
    """Returns this node's device, chosen once: what is free changes as soon as somebody works."""
    return choose_device(asked, partition_id)


@lru_cache(maxsize=4)
def _checked(flat: tuple[tuple[str, Any], ...]) -> Settings:
    """Returns the settings, checked once a process rather than at every message (25 to 60 ms each time)."""
    return from_flat(dict(flat))


def _partition_id(context: Context) -> int:
    return int(context.node_config.get("partition-id", context.node_id))


def _sharing(partition_id: int) -> int:
    """Returns whose crew it is: nodes that take turns in one thread share one, nodes in threads have their own.

    A pool gives a node's orders to any of its threads: a crew for each of these would put all nodes' resident data on
    every device.
    """
    return SHARED if threading.current_thread() is threading.main_thread() else partition_id


def _crew(order: dict[str, Any], context: Context) -> Crew:
    """Returns this process's workplace for the order's run and its workers, made at its first message."""
    settings = _settings(context)
    set_up_torch(settings.train.threads, settings.deterministic)
    device = _device(settings.train.device, _partition_id(context))
    run = json.dumps([order["plan"], sorted(context.run_config.items())], sort_keys=True, default=str)
    key = (run, str(device), _sharing(_partition_id(context)))
    if key not in _crews:
        for stale in [key for key in tuple(_crews) if key[0] != run]:
            if (old := _crews.pop(stale, None)) is not None:
                old.close()
        count = worker_count(settings.train.workers, settings.train.threads, device)
        node = Node(settings, order["plan"], device, sharers=count)
        _crews[key] = Crew(node, count, settings.train.threads)
    return _crews[key]
