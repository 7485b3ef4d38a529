"""Any plain Flower strategy (FedAvg, FedAdam, ...) on the same clients: one dense model, nodes that pick their cohort.

Such a strategy knows nodes, not clients. So each sampled node trains its share of `clients.per-round`, drawn by the
node's own stream, and gives back one average: to the strategy, a node is a client.
"""

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.app.typing import MetricRecordValues
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from fedmoe.data.population import Population
from fedmoe.errors import RoundError
from fedmoe.evaluation.gathering import evaluation_record, held_sets
from fedmoe.evaluation.priors import federated_prior
from fedmoe.evaluation.serving import Serving
from fedmoe.evaluation.zero_shot import ClientResult
from fedmoe.federation.job import ClientJob, Term
from fedmoe.federation.ledger import FLOAT_BYTES
from fedmoe.federation.merging import Sums
from fedmoe.federation.sampling import matched_count
from fedmoe.federation.state import ServerState, moving_average
from fedmoe.flower.choosing import choose, with_looped
from fedmoe.flower.crew import Crew
from fedmoe.flower.devices import choose_device
from fedmoe.flower.federation import Federation, Recorder
from fedmoe.flower.node import Node
from fedmoe.flower.preparation import Preparation
from fedmoe.flower.replies import mean_seconds
from fedmoe.flower.roster import call_roster
from fedmoe.flower.wire import job_to_json, record_of, state_of
from fedmoe.seeding import numpy_stream
from fedmoe.settings import Settings
from fedmoe.training.speed import TrainerChoice

__all__ = ["is_plain", "plan_of", "reply_to_evaluate", "reply_to_train", "run_plain"]

PLAN = "plan"
TRAINER = "trainer"
REPORT = "report"


def is_plain(message: Message) -> bool:
    """Returns whether a plain Flower strategy sent the message."""
    return "text" not in message.content.config_records


def plan_of(message: Message) -> tuple[dict[str, Any], int]:
    """Returns the plan and the round that travel in a plain strategy's config."""
    config = next(iter(message.content.config_records.values()))
    return json.loads(str(config[PLAN])), int(config.get("server-round", 1))  # type: ignore[arg-type]


def reply_to_train(message: Message, context: Context, crew: Crew) -> Message:
    """Returns the average over this node's cohort, and how many examples and clients it stands for."""
    config = next(iter(message.content.config_records.values()))
    _, round_num = plan_of(message)
    mu = _number(config.get("proximal-mu", 0.0))  # Flower's FedProx asks for it in this way
    name, record = next(iter(message.content.array_records.items()))
    settings, cohort = crew.node.settings, _cohort(crew.node.settings, crew.node.population, _node(context), round_num)
    order = {
        "jobs": [job_to_json(job) for job in _jobs(cohort, round_num, mu)],
        "num_experts": 1,
        "merges": "sums",
        "trainer": json.loads(str(config[TRAINER])),
    }
    report, sums = crew.train(order, state_of(record).to_arrays())
    rows, failures = report["rows"], report["failures"]
    if not rows:
        raise RoundError(f"round {round_num}: none of the node's clients gave a usable update: {failures}")
    average = Sums(settings.deterministic, sums, report["weights"]).average("expert/0")
    examples = sum(row["num_examples"] for row in rows)
    loss = sum(row["metrics"]["loss"] * row["num_examples"] for row in rows) / examples
    metrics: dict[str, MetricRecordValues] = {"num-examples": examples, "loss": loss}
    told = {"clients": cohort, "failures": failures, "looped": report["looped"]}
    content = RecordDict(
        {
            name: ArrayRecord({"expert/0": Array(average)}),
            "metrics": MetricRecord(metrics),
            REPORT: ConfigRecord({"json": json.dumps(told)}),
        }
    )
    return Message(content, reply_to=message)


def reply_to_evaluate(message: Message, context: Context, node: Node) -> Message:
    """Returns the mean accuracy over this node's share of the unseen clients."""
    state = state_of(next(iter(message.content.array_records.values())))
    own = _share(node.population.unseen, _node(context)) or tuple(node.population.unseen)[:1]
    results = serve_dense(node, own, state)
    metrics: dict[str, MetricRecordValues] = {
        "num-examples": sum(result.examples for result in results),
        "accuracy": float(np.mean([result.accuracies["zero_shot"] for result in results])),
    }
    return Message(RecordDict({"metrics": MetricRecord(metrics)}), reply_to=message)


def serve_dense(
    node: Node, clients: Sequence[int], state: ServerState, cold_start: tuple[int, ...] = ()
) -> list[ClientResult]:
    """Returns how each of these unseen clients fares with the dense model."""
    asked = node.settings.evaluate
    serving = Serving(top_k=1, cold_start=cold_start, common_vote=asked.common_vote, doubt=asked.doubt)
    prior = torch.from_numpy(federated_prior(node.population, node.settings.train.logit_adjustment))
    chunks = node.together(clients, 1)
    return [result for some in chunks for result in node.serve(some, state, serving, prior, round_num=0)]


class PlainRounds:
    """Watches a plain strategy: what its nodes sent back, and what each round comes to."""

    def __init__(self, strategy: Strategy, preparation: Preparation, recorder: Recorder, choice: TrainerChoice) -> None:
        settings = preparation.settings
        self.preparation = preparation
        self.recorder = recorder
        self.choice = choice
        self.node = Node(settings, preparation.plan(), choose_device(settings.train.device, None))
        self.average: ServerState | None = None
        self.held: Mapping[int, Sequence[int]] = {}
        self.started = 0.0
        self.inner = strategy.aggregate_train
        strategy.aggregate_train = self.aggregate_train  # type: ignore[method-assign]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Notes what the nodes report and has the strategy aggregate the replies.

        Raises:
            RoundError: fewer than `clients.min-completed` of the round's clients gave a usable update.
        """
        kept = list(replies)
        good = [reply for reply in kept if reply.has_content()]
        reports = [json.loads(str(reply.content.config_records[REPORT]["json"])) for reply in good]
        self.clients = sorted(client for report in reports for client in report["clients"])
        self.failures = [failure for report in reports for failure in report["failures"]]
        looped = {kind: why for report in reports for kind, why in report["looped"].items()}
        self.choice = with_looped(self.choice, looped, self.recorder)
        self.metrics = [next(iter(reply.content.metric_records.values())) for reply in good]
        share = self.preparation.settings.clients.min_completed
        completed = len(self.clients) - len(self.failures)
        if not good or completed < share * len(self.clients):
            reason = next((reply.error.reason for reply in kept if reply.has_error()), self.failures[:1])
            raise RoundError(
                f"round {server_round}: at least {share:.0%} of the clients must complete (clients.min-completed), got "
                f"{completed} of {len(self.clients)}; first failure: {reason}"
            )
        return self.inner(server_round, kept)

    def record(self, round_num: int, arrays: ArrayRecord) -> MetricRecord | None:
        """Records the round; evaluates it when it is time. Round 0, before training, is not recorded."""
        if round_num == 0:
            self.started = time.perf_counter()
            return None
        settings, state = self.preparation.settings, state_of(arrays)
        if settings.evaluate.ema > 0:
            self.average = state if self.average is None else moving_average(self.average, state, settings.evaluate.ema)
        evaluation, personalise, evaluating = None, None, time.perf_counter()
        if round_num % settings.evaluate.every == 0 or round_num == settings.num_server_rounds:
            served, unseen = self.average or state, self.preparation.population.unseen
            sizes = settings.evaluate.cold_start_sizes if round_num == settings.num_server_rounds else ()
            results = serve_dense(self.node, unseen, served, sizes)
            evaluation = evaluation_record(dict(zip(unseen, results, strict=True)), self.held)
            self.held, personalise = held_sets(evaluation), mean_seconds(results)
        now = time.perf_counter()
        seconds = {
            "round": round(now - self.started, 4),
            "evaluate": round(now - evaluating, 4),
            "personalise": personalise,
        }
        self.recorder.round(self._line(round_num, state, evaluation, seconds), state, self.average)
        self.started = time.perf_counter()
        return None if evaluation is None else MetricRecord({"accuracy": evaluation["methods"]["zero_shot"]["mean"]})

    def _line(
        self, round_num: int, state: ServerState, evaluation: dict[str, Any] | None, seconds: dict[str, float | None]
    ) -> dict[str, Any]:
        examples = sum(int(_number(metrics["num-examples"])) for metrics in self.metrics)
        loss = sum(_number(metrics["loss"]) * _number(metrics["num-examples"]) for metrics in self.metrics) / examples
        sent = len(self.clients) * int(state.experts[0].size) * FLOAT_BYTES
        return {
            "round": round_num,
            "clients": self.clients,
            "assignment": {str(client): [0] for client in self.clients},
            "completed": len(self.clients) - len(self.failures),
            "failures": [
                {"stage": f["stage"], "client": f["client_id"], "round": round_num, "error": f["error"]}
                for f in self.failures
            ],
            "train": {"loss": loss, "examples": examples},
            "rankings": {},
            "load": [len(self.clients)],
            "bytes": {"down": sent, "up": sent, "by_expert": [2 * sent]},
            "evaluate": evaluation,
            "seconds": seconds,
        }


def run_plain(strategy: Strategy, preparation: Preparation, federation: Federation, grid: Grid) -> None:
    """Trains a plain Flower strategy by its own `start`, from round 1.

    The trainer is chosen before that, on the cohort that the first node will have, and travels in the config.

    Raises:
        RoundError: no trainer could be chosen, or a round failed.
    """
    settings, state = preparation.settings, preparation.initial_state(1, False, "")
    choice = federation.trainer
    if choice is None:
        roster = call_roster(grid)
        cohort = _cohort(settings, federation.population, (0, len(roster.node_ids)), 1)
        jobs = _jobs(cohort, 1, _number(getattr(strategy, "proximal_mu", 0.0)))
        choice = choose(federation, jobs, state, settings.num_server_rounds, grid, roster)
    config = {PLAN: json.dumps(dict(federation.plan))}
    watched = PlainRounds(strategy, preparation, federation.recorder, choice)
    strategy.start(
        grid,
        record_of(state),
        num_rounds=settings.num_server_rounds,
        timeout=settings.clients.timeout,
        train_config=ConfigRecord({**config, TRAINER: json.dumps(asdict(choice))}),
        evaluate_config=ConfigRecord(dict(config)),
        evaluate_fn=watched.record,
    )


def _jobs(clients: Sequence[int], round_num: int, mu: float) -> list[ClientJob]:
    """Returns the clients' jobs: the dense model's loss, with FedProx's term where `mu` is above 0."""
    objective = (Term("dense"), Term("prox", {"mu": mu})) if mu else (Term("dense"),)
    own: dict[str, Any] = {"objective": objective, "gate": False, "weighting": "examples"}
    return [ClientJob(client_id=client, round_num=round_num, experts=(0,), **own) for client in clients]


def _cohort(settings: Settings, population: Population, node: tuple[int, int], round_num: int) -> list[int]:
    """Returns a node's clients of the round: its share of the round's number, by lot among its own.

    Args:
        settings: the run's.
        population: whose training clients they are.
        node: its partition id, and how many nodes there are.
        round_num: the round.
    """
    own = _share(population.training, node)
    together = settings.clients.per_round
    if settings.clients.matched_bytes:
        together = matched_count(settings.clients, settings.experts.top_k, 2, len(population.training))
    wanted = max(1, round(together / max(1, node[1])))
    rng = numpy_stream(settings.seed, "plain", "round", round_num, "node", node[0])
    return sorted(int(client) for client in rng.choice(own, size=min(wanted, len(own)), replace=False))


def _share(clients: Sequence[int], node: tuple[int, int]) -> tuple[int, ...]:
    partition, partitions = node
    return tuple(client for client in clients if client % partitions == partition)


def _node(context: Context) -> tuple[int, int]:
    """Returns the node's partition id, and how many nodes there are."""
    return int(context.node_config["partition-id"]), int(context.node_config["num-partitions"])


def _number(value: Any) -> float:
    return float(value)
