"""A FedJETs round with the table of embeddings and without it; everything else is the same code.

Without: whenever embeddings are needed (ranking, training, evaluation), the common expert looks at the client's own
samples again, as on a device that keeps no table.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.app import ConfigRecord, Context, Message
from flwr.clientapp import ClientApp
from torch import Tensor

from benchmarks.sides.fedmoe_round import ChoiceRecorder, bound, flat_settings
from benchmarks.workloads import Work, images_and_labels
from fedmoe.data.contracts import Deal, Ids, Shares
from fedmoe.evaluation.outputs import in_batches
from fedmoe.flower import client_app
from fedmoe.flower.crew import Crew
from fedmoe.flower.local_grid import LocalGrid
from fedmoe.flower.node import Node
from fedmoe.flower.preparation import Preparation
from fedmoe.flower.wire import decode, encode, record_of
from fedmoe.moe.expert import Expert
from fedmoe.training.sample_store import SampleStore
from fedmoe.training.samples import Lots

__all__ = ["ComputingStore", "RoundSide", "computing_node", "equal_shares", "settings_of", "unseen_clients"]

ROUNDS = 10**6  # the last round of a run is evaluated in another way; no turn is the last one


def unseen_clients(work: Work) -> int:
    """Returns how many unseen clients are served in a round: a tenth of the training clients, at least two."""
    return max(2, work.clients // 10)


def settings_of(work: Work, folder: Path) -> dict[str, Any]:
    """Returns the flat settings of the work, whose data is written into the folder; each round is evaluated."""
    num_train, unseen = work.samples_per_round + 2 * work.classes, unseen_clients(work)
    images, labels = images_and_labels(work, num_train + unseen * work.samples)
    file = folder / f"{work.name}.npz"
    np.savez(file, images=images, labels=labels, num_train=num_train, classes=work.classes)
    return flat_settings(work, 1, "auto") | {
        "num-server-rounds": ROUNDS,
        "data.root": str(file),
        "clients.partition": "benchmarks.embedding_sides:equal_shares",
        "clients.unseen": unseen,
        "train.compile": "off",
        "evaluate.every": 1,
    }


def equal_shares(deal: Deal) -> Shares:
    """Returns as many samples for each client, in the order of their ids."""
    train, unseen = np.array_split(deal.train_ids, deal.num_clients), np.array_split(deal.test_ids, deal.num_unseen)
    return Shares(train=tuple(train), unseen=tuple(unseen))


@dataclass(frozen=True, kw_only=True)
class ComputingStore(SampleStore):
    """A store without a table of embeddings: the common expert computes them whenever a gate reads some."""

    common: Expert

    def gate_input(self, ids: Ids, reads: str | None, lots: Lots | None = None) -> Tensor:
        """Returns what the gate reads; an embedding takes the sample's image."""
        if reads != "embedding":
            return super().gate_input(ids, reads, lots)
        with torch.no_grad():
            return in_batches(self.common.embed, self.load(ids, None).inputs, torch.arange(len(ids))).to(self.device)


def computing_node(node: Node, common: Expert) -> Node:
    """Returns the node, which from now on computes embeddings; its table has no rows left."""
    known = {item.name: getattr(node.store, item.name) for item in fields(SampleStore) if item.init}
    known["embeddings"] = node.store.embeddings[:0]
    node.store = ComputingStore(**known, common=common.eval())
    node.place = replace(node.place, store=node.store)
    return node


def node_app(node: Crew) -> ClientApp:
    """Returns a ClientApp that is this one node and its workers."""
    app = ClientApp()
    app.query("hello")(client_app.hello)

    @app.query("rank")
    def rank(message: Message, context: Context) -> Message:
        return Message(encode(node.rank(*decode(message)), {}), reply_to=message)

    @app.query("measure")
    def measure(message: Message, context: Context) -> Message:
        return Message(encode(node.measure(*decode(message)), {}), reply_to=message)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        return Message(encode(*node.train(*decode(message))), reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        return Message(encode(node.evaluate(*decode(message)), {}), reply_to=message)

    return app


class RoundSide:
    """Rounds on one node, driven as `ExpertStrategy.start` drives them, but for what is recorded.

    Args:
        config: flat settings.
        preparation: what stands before the first round.
        node: who does the clients' work.
    """

    def __init__(self, config: Mapping[str, Any], preparation: Preparation, node: Crew) -> None:
        self.recorder = ChoiceRecorder()
        self.strategy = bound(preparation.settings, preparation, self.recorder)
        self.grid = LocalGrid(node_app(node), 1, dict(config))
        strategy = self.strategy
        self.arrays = record_of(preparation.initial_state(strategy.num_experts, strategy.has_gate, strategy.init))
        self.round_num = 0
        self.loss, self.accuracy = float("nan"), float("nan")

    def go(self) -> float:
        """Does one round and returns its seconds: ranking, training, merging, serving the unseen clients."""
        self.round_num += 1
        started, strategy, config = time.perf_counter(), self.strategy, ConfigRecord()
        asked = strategy.configure_train(self.round_num, self.arrays, config, self.grid)
        merged, trained = strategy.aggregate_train(self.round_num, self.grid.send_and_receive(asked))
        assert merged is not None
        assert trained is not None
        self.arrays = merged
        asked = strategy.configure_evaluate(self.round_num, merged, config, self.grid)
        served = strategy.aggregate_evaluate(self.round_num, self.grid.send_and_receive(asked))
        assert served is not None
        seconds = time.perf_counter() - started
        self.loss, self.accuracy = float(trained["loss"]), float(served["zero_shot"])  # type: ignore[arg-type]
        return seconds
