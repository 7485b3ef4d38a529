"""Any plain Flower strategy (FedAvg, FedAdam, ...) on the same clients: one dense model, nodes that pick their cohort.

Such a strategy knows nodes, not clients. So each sampled node trains its share of `clients.per-round`, drawn by the
node's own stream, and gives back one average: to the strategy, a node is a client.
"""

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.app.typing import MetricRecordValues
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from fedmoe.errors import RoundError, RunFolderError
from fedmoe.evaluation.gathering import evaluation_record
from fedmoe.evaluation.zero_shot import ClientResult, Serving
from fedmoe.federation.job import ClientJob, ClientUpdate, Term
from fedmoe.federation.merging import sums_of_updates
from fedmoe.federation.state import ServerState
from fedmoe.flower.federation import Recorder
from fedmoe.flower.node import Node
from fedmoe.flower.preparation import Preparation
from fedmoe.flower.wire import record_of, state_of
from fedmoe.seeding import numpy_stream

__all__ = ["is_plain", "plan_of", "reply_to_evaluate", "reply_to_train", "run_plain"]

PLAN = "plan"


def is_plain(message: Message) -> bool:
    """Returns whether a plain Flower strategy sent the message."""
    return "text" not in message.content.config_records


def plan_of(message: Message) -> tuple[dict[str, Any], int]:
    """Returns the plan and the round that travel in a plain strategy's config."""
    config = next(iter(message.content.config_records.values()))
    return json.loads(str(config[PLAN])), int(config.get("server-round", 1))  # type: ignore[arg-type]


def reply_to_train(message: Message, context: Context, node: Node) -> Message:
    """Returns the average over this node's cohort, and how many examples and clients it stands for."""
    _, round_num = plan_of(message)
    name, record = next(iter(message.content.array_records.items()))
    cohort = _cohort(context, node, round_num)
    jobs = [
        ClientJob(
            client_id=client,
            round_num=round_num,
            experts=(0,),
            objective=(Term("dense"),),
            gate=False,
            weighting="examples",
        )
        for client in cohort
    ]
    outcomes = list(node.trainer.train(jobs, state_of(record)))
    updates = [outcome for outcome in outcomes if isinstance(outcome, ClientUpdate)]
    if not updates:
        raise RoundError(f"round {round_num}: none of the node's {len(jobs)} clients gave a usable update")
    average = sums_of_updates(updates, node.settings.deterministic).average("expert/0")
    examples = sum(update.num_examples for update in updates)
    loss = sum(update.metrics["loss"] * update.num_examples for update in updates) / examples
    metrics: dict[str, MetricRecordValues] = {
        "num-examples": examples,
        "loss": loss,
        "clients": len(jobs),
        "failures": len(jobs) - len(updates),
    }
    content = RecordDict({name: ArrayRecord({"expert/0": Array(average)}), "metrics": MetricRecord(metrics)})
    return Message(content, reply_to=message)


def reply_to_evaluate(message: Message, context: Context, node: Node) -> Message:
    """Returns the mean accuracy over this node's share of the unseen clients."""
    state = state_of(next(iter(message.content.array_records.values())))
    own = _share(node.population.unseen, context) or tuple(node.population.unseen)[:1]
    results = [serve_dense(node, client, state) for client in own]
    metrics: dict[str, MetricRecordValues] = {
        "num-examples": sum(result.examples for result in results),
        "accuracy": float(np.mean([result.accuracies["zero_shot"] for result in results])),
    }
    return Message(RecordDict({"metrics": MetricRecord(metrics)}), reply_to=message)


def serve_dense(node: Node, client_id: int, state: ServerState) -> ClientResult:
    """Returns how one unseen client fares with the dense model."""
    counts = node.population.label_counts()[: node.population.num_training].sum(axis=0)
    return node.serve(client_id, state, Serving(top_k=1), torch.from_numpy(counts / counts.sum()), round_num=0)


class PlainRounds:
    """Watches a plain strategy: what its nodes sent back, and what each round comes to."""

    def __init__(self, strategy: Strategy, preparation: Preparation, recorder: Recorder) -> None:
        self.preparation = preparation
        self.recorder = recorder
        self.node = Node(preparation.settings, preparation.plan(), preparation.store.device)
        self.started = 0.0
        self.metrics: list[MetricRecord] = []
        self.inner = strategy.aggregate_train
        strategy.aggregate_train = self.aggregate_train  # type: ignore[method-assign]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Notes the replies' metrics and has the strategy aggregate them."""
        kept = list(replies)
        self.metrics = [next(iter(r.content.metric_records.values())) for r in kept if r.has_content()]
        if not self.metrics:
            reason = next((r.error.reason for r in kept if r.has_error()), "no node answered")
            raise RoundError(f"round {server_round}: no node gave a usable reply: {reason}")
        return self.inner(server_round, kept)

    def record(self, round_num: int, arrays: ArrayRecord) -> MetricRecord | None:
        """Records the round; evaluates it when it is time. Round 0, before training, is not recorded."""
        if round_num == 0:
            self.started = time.perf_counter()
            return None
        settings, state = self.preparation.settings, state_of(arrays)
        total = {name: sum(_number(m[name]) for m in self.metrics) for name in ("num-examples", "clients", "failures")}
        loss = sum(_number(m["loss"]) * _number(m["num-examples"]) for m in self.metrics) / total["num-examples"]
        examples, clients, failures = (int(total[name]) for name in ("num-examples", "clients", "failures"))
        evaluation, evaluating = None, time.perf_counter()
        if round_num % settings.evaluate.every == 0 or round_num == settings.num_server_rounds:
            unseen = self.preparation.population.unseen
            evaluation = evaluation_record({client: serve_dense(self.node, client, state) for client in unseen})
        now = time.perf_counter()
        sent = clients * int(state.experts[0].size) * 4
        line = {
            "round": round_num,
            "clients": [],
            "assignment": {},
            "completed": clients - failures,
            "failures": [{"stage": "train", "client": None, "round": round_num, "error": "see the log"}] * failures,
            "train": {"loss": loss, "examples": examples},
            "rankings": {},
            "load": [clients],
            "bytes": {"down": sent, "up": sent, "by_expert": [2 * sent]},
            "evaluate": evaluation,
            "seconds": {"round": round(now - self.started, 4), "evaluate": round(now - evaluating, 4)},
        }
        self.recorder.round(line, state, None)
        self.started = time.perf_counter()
        return None if evaluation is None else MetricRecord({"accuracy": evaluation["methods"]["zero_shot"]["mean"]})


def run_plain(strategy: Strategy, preparation: Preparation, recorder: Recorder, grid: Grid, first_round: int) -> None:
    """Trains a plain Flower strategy by its own `start`.

    Raises:
        RunFolderError: the run is to be resumed, which Flower's own loop cannot do.
    """
    if first_round != 1:
        raise RunFolderError(
            f"a plain Flower strategy must start at round 1, got round {first_round}: Flower's loop cannot go on "
            "from a checkpoint; hint: start a new run"
        )
    config = {PLAN: json.dumps(dict(preparation.plan()))}
    watched = PlainRounds(strategy, preparation, recorder)
    strategy.start(
        grid,
        record_of(preparation.initial_state(1, False, "")),
        num_rounds=preparation.settings.num_server_rounds,
        train_config=ConfigRecord(dict(config)),
        evaluate_config=ConfigRecord(dict(config)),
        evaluate_fn=watched.record,
    )


def _cohort(context: Context, node: Node, round_num: int) -> list[int]:
    """Returns this node's clients of the round: its share of `clients.per-round`, by lot among its own."""
    own = _share(node.population.training, context)
    wanted = max(1, round(node.settings.clients.per_round / max(1, int(context.node_config["num-partitions"]))))
    rng = numpy_stream(
        node.settings.seed, "plain", "round", round_num, "node", int(context.node_config["partition-id"])
    )
    return sorted(int(client) for client in rng.choice(own, size=min(wanted, len(own)), replace=False))


def _share(clients: Sequence[int], context: Context) -> tuple[int, ...]:
    config: Mapping[str, Any] = context.node_config
    return tuple(c for c in clients if c % int(config["num-partitions"]) == int(config["partition-id"]))


def _number(value: Any) -> float:
    return float(value)
