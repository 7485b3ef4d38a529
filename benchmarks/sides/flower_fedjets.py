"""A FedJETs round through Flower, a client a SuperNode: a ranking query to each normal client, then a train message.

Each message carries what its client needs as arrays: the gate, and for training its held experts. The common expert
is in each process already; its embeddings are not kept.
"""

import time
from collections.abc import Iterable, Mapping
from functools import lru_cache

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from torch import Tensor

from benchmarks.networks import build_gate, build_network
from benchmarks.sides import Rounds
from benchmarks.sides.client_data import client_tensors
from benchmarks.sides.epoch import flat
from benchmarks.sides.fedjets_client import FedJETsClient, averaged, best_experts
from benchmarks.sides.flower_averaging import examples_in
from benchmarks.workloads import Work, work_named

__all__ = ["app", "rounds"]

PATIENCE = 600.0  # seconds for all replies, after which something has died

app = ClientApp()


class Server:
    """The server of a FedJETs run over Flower's grid: its state, and its round."""

    def __init__(self, work: Work, grid: Grid) -> None:
        torch.manual_seed(0)
        self.work, self.grid = work, grid
        self.gate = dict(build_gate(work, build_network(work).width).state_dict())
        self.experts = [dict(build_network(work).state_dict()) for _ in range(work.experts)]
        self.config = ConfigRecord({"work": work.name, "toy": work.toy})
        hellos = self.ask("query.hello", {node: RecordDict() for node in all_nodes(grid, work.clients)})
        self.nodes = {int(hello["hello"]["client"]): node for node, hello in hellos.items()}  # type: ignore[arg-type]

    def train(self) -> int:
        """Does a round; returns how many samples were trained on."""
        gate = ArrayRecord(self.gate)
        held = self.assigned(gate)
        experts = [ArrayRecord(weights) for weights in self.experts]
        orders = {}
        for client, ids in held.items():
            anchor = client < self.work.experts
            job = ConfigRecord({**self.config, "experts": list(ids), "anchor": anchor})
            content = RecordDict({"gate": gate, "config": job})
            for expert in ids:
                content[f"expert-{expert}"] = experts[expert]
            orders[self.nodes[client]] = content
        replies = self.ask("train", orders)
        self.merge({client: replies[self.nodes[client]] for client in held}, held)
        return sum(examples_in(reply) for reply in replies.values())

    def assigned(self, gate: ArrayRecord) -> dict[int, tuple[int, ...]]:
        """Returns who holds which experts: an anchor its own, a normal client the K that it ranks highest."""
        query = RecordDict({"gate": gate, "config": self.config})
        normal = [client for client in sorted(self.nodes) if client >= self.work.experts]
        ranked = self.ask("query.rank", {self.nodes[client]: query for client in normal})
        held: dict[int, tuple[int, ...]] = {anchor: (anchor,) for anchor in range(self.work.experts)}
        for client in normal:
            scores: list[float] = ranked[self.nodes[client]]["ranking"]["scores"]  # type: ignore[assignment]
            held[client] = best_experts(scores, self.work.top_k)
        return held

    def merge(self, replies: Mapping[int, RecordDict], held: Mapping[int, Iterable[int]]) -> None:
        """Averages the gate over all clients, and each expert over those who held it."""
        self.gate = averaged([weights_of(reply, "gate") for reply in replies.values()])
        for expert in range(self.work.experts):
            holders = [client for client, ids in held.items() if expert in ids]
            if holders:
                self.experts[expert] = averaged([weights_of(replies[c], f"expert-{expert}") for c in holders])

    def ask(self, message_type: str, contents: Mapping[int, RecordDict]) -> dict[int, RecordDict]:
        """Returns each node's reply by node id.

        Raises:
            RuntimeError: a node failed, or did not answer in time.
        """
        orders = [Message(content, dst_node_id=node, message_type=message_type) for node, content in contents.items()]
        replies = list(self.grid.send_and_receive(orders, timeout=PATIENCE))
        broken = [reply.error.reason for reply in replies if reply.has_error()]
        if broken or len(replies) != len(orders):
            raise RuntimeError(f"all {len(orders)} nodes must answer, got {len(replies)} and errors: {broken[:1]}")
        return {reply.metadata.src_node_id: reply.content for reply in replies}


def all_nodes(grid: Grid, count: int) -> list[int]:
    """Returns the nodes' ids, once all have registered: the ServerApp starts before them.

    Raises:
        RuntimeError: they did not come.
    """
    deadline = time.monotonic() + PATIENCE
    while len(nodes := list(grid.get_node_ids())) < count:
        if time.monotonic() > deadline:
            raise RuntimeError(f"{count} nodes must register within {PATIENCE:.0f} s, got {len(nodes)}")
        time.sleep(0.1)
    return nodes


def rounds(work: Work, grid: Grid) -> Rounds:
    """Returns the rounds of a FedJETs server over the grid."""
    server = Server(work, grid)

    def parts() -> Iterable[Tensor]:
        yield from server.gate.values()
        for expert in server.experts:
            yield from expert.values()

    return Rounds(server.train, lambda: flat(parts()))


@app.query("hello")
def hello(message: Message, context: Context) -> Message:
    """Replies which client this node is."""
    record = ConfigRecord({"client": int(context.node_config["partition-id"])})
    return Message(RecordDict({"hello": record}), reply_to=message)


@app.query("rank")
def rank(message: Message, context: Context) -> Message:
    """Replies the client's score of every expert."""
    scores = client_of(message, context).ranking(weights_of(message.content, "gate"))
    return Message(RecordDict({"ranking": MetricRecord({"scores": scores})}), reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Replies the gate and the held experts after one epoch."""
    config, client = message.content["config"], client_of(message, context)
    ids: list[int] = config["experts"]  # type: ignore[assignment]
    held = {expert: weights_of(message.content, f"expert-{expert}") for expert in ids}
    update = client.train(held, weights_of(message.content, "gate"), anchor=bool(config["anchor"]))
    metrics = MetricRecord({"num-examples": len(client.y), "loss": update.loss})
    content = RecordDict({"gate": ArrayRecord(update.gate), "metrics": metrics})
    for expert, weights in update.experts.items():
        content[f"expert-{expert}"] = ArrayRecord(weights)
    return Message(content, reply_to=message)


def weights_of(content: RecordDict, name: str) -> dict[str, Tensor]:
    """Returns the weights of one part."""
    return dict(content[name].to_torch_state_dict())  # type: ignore[union-attr]


def client_of(message: Message, context: Context) -> FedJETsClient:
    """Returns the client that this node is, with its samples in memory."""
    config = message.content["config"]
    return resident(str(config["work"]), bool(config["toy"]))[int(context.node_config["partition-id"])]


@lru_cache(maxsize=1)
def resident(name: str, toy: bool) -> list[FedJETsClient]:
    """Returns this process's clients, made at its first message."""
    torch.set_num_threads(1)
    work = work_named(name, toy)
    return [FedJETsClient(work, x, y) for x, y in client_tensors(work)]
