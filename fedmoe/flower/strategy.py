"""The one class that strategies build on: Flower's five strategy methods, written once, over a strategy's contract."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from fedmoe.errors import RoundError
from fedmoe.evaluation.gathering import held_sets
from fedmoe.federation.job import ClientFailure, ClientJob
from fedmoe.federation.ledger import RoundBytes
from fedmoe.federation.sparse import nonzeros_of
from fedmoe.federation.state import ServerState, moving_average
from fedmoe.flower.choosing import choose, with_looped
from fedmoe.flower.contract import Contract
from fedmoe.flower.federation import Federation
from fedmoe.flower.orders import evaluate_orders, rank_orders, train_orders
from fedmoe.flower.replies import gather_evaluation, gather_rankings, gather_training
from fedmoe.flower.roster import Roster, call_roster, exchange
from fedmoe.flower.wire import record_of, state_of
from fedmoe.moe.vectors import Vector
from fedmoe.seeding import numpy_stream
from fedmoe.training.speed import TrainerChoice

__all__ = ["ExpertStrategy"]


class ExpertStrategy(Contract, Strategy):
    """A federated strategy over a pool of experts; all that a subclass may say and override stands in `Contract`."""

    def bind(self, federation: Federation) -> None:
        """Ties the strategy to a run."""
        self.federation = federation
        self.num_experts = self.pool_size(federation.settings)
        self.rankings = {}
        self._average = federation.average
        self._held: Mapping[int, Sequence[int]] = federation.held
        self._roster: Roster | None = None
        self._trainer: TrainerChoice | None = federation.trainer
        self.num_rounds = federation.settings.num_server_rounds

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Returns one message per node with work; the ranking query is sent, and answered, on the way."""
        self.state = state_of(arrays)
        if self._roster is None:
            self._roster = call_roster(grid)
        rng = numpy_stream(self.federation.settings.seed, "round", server_round, "server")
        clients = tuple(self.sample(server_round, self.federation.population.training, rng))
        self._asked, self._by = tuple(self.ranked(clients)), self.query()
        self.rankings, self._failures = self._rank(server_round, self._asked, self.state, grid)
        self.state = state = self.begin(server_round, self.state)
        lost = {failure.client_id for failure in self._failures}
        self._clients = clients
        present = {client: self.rankings.get(client, ()) for client in clients if client not in lost}
        self._assignment = self.assign(server_round, present, rng)
        self._jobs = [
            job
            for client, held in sorted(self._assignment.items())
            for job in _several(self.jobs(server_round, client, tuple(held)))
        ]
        self._state, self._orders = state, {}
        if not self._jobs:
            return  # nobody could be ranked: `aggregate_train` says why
        if self._trainer is None:
            federation, rounds = self.federation.at(server_round), self.num_rounds - server_round + 1
            self._trainer = choose(federation, self._jobs, state, rounds, grid, self._roster)
        meanwhile = tuple(self.ranked_meanwhile(server_round, clients))
        self._orders = train_orders(
            *(self.federation.at(server_round), self._roster, self._jobs, state, self.merges, self._trainer),
            *(meanwhile, self.query(), self.serving().aggregation),
        )
        for node_id, (_, content) in self._orders.items():
            yield Message(content=content(), dst_node_id=node_id, message_type="train", group_id=str(server_round))

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Returns the merged state; failures are counted, and too many of them end the run.

        Raises:
            RoundError: fewer than `clients.min-completed` of the round's clients gave a usable update.
        """
        cohorts = {node_id: cohort for node_id, (cohort, _) in self._orders.items()}
        exact = self.federation.settings.deterministic
        gathered = gather_training(server_round, replies, cohorts, self.merges, exact)
        if self._trainer is not None:
            self._trainer = with_looped(self._trainer, gathered.looped, self.federation.recorder)
        self._rows = gathered.rows
        # A client of a silent node that was only asked to rank for another round had nothing to train.
        trained = {job.client_id for job in self._jobs}
        failed_then = [f if f.client_id in trained else replace(f, stage="rank") for f in gathered.failures]
        gathered = replace(gathered, failures=failed_then)
        self._nonzeros = nonzeros_of(self._jobs, self._state, gathered.rows)
        # A strategy may ask clients that are not in the round: nobody misses their work.
        unranked = {f.client_id for f in self._failures if f.stage == "rank"} & set(self._clients)
        wanted = len(self._assignment) + len(unranked)
        self._failures = [*self._failures, *gathered.failures]
        # a later job of a client may, after its first
        failed = {failure.client_id for failure in gathered.failures if failure.stage == "train"}
        self._completed = sum(row["client_id"] not in failed for row in gathered.rows)
        share = self._completed / wanted
        if share < self.federation.settings.clients.min_completed or not gathered.rows:
            raise RoundError(
                f"round {server_round}: at least {self.federation.settings.clients.min_completed:.0%} of the clients "
                f"must complete (clients.min-completed), got {self._completed} of {wanted}; "
                f"first failure: {_first(self._failures)}"
            )
        self._state = self.merge(server_round, self._state, gathered)
        examples = sum(row["num_examples"] for row in gathered.rows)
        loss = sum(row["metrics"]["loss"] * row["num_examples"] for row in gathered.rows) / examples
        return record_of(self._state), MetricRecord({"loss": loss, "num-examples": examples})

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Returns one message per node with unseen clients to serve, in the rounds that are evaluated."""
        self._evaluation_cohorts: dict[int, tuple[int, ...]] = {}
        if not self._is_evaluated(server_round):
            return
        last = server_round == self.num_rounds
        if self._roster is None:
            self._roster = call_roster(grid)
        orders = evaluate_orders(
            self.federation.at(server_round),
            self._roster,
            server_round,
            state_of(arrays),
            self.serving(),
            last,
            self.head_of,
        )
        self._evaluation_cohorts = {node_id: cohort for node_id, (cohort, _) in orders.items()}
        for node_id, (_, content) in orders.items():
            yield Message(content=content(), dst_node_id=node_id, message_type="evaluate", group_id=str(server_round))

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Returns the means over unseen clients, or `None` in rounds that are not evaluated."""
        self._evaluation = self._personalise = None
        if not self._evaluation_cohorts:
            return None
        num_training = self.federation.population.num_training
        self._evaluation, failures, self._personalise = gather_evaluation(
            server_round, replies, self._evaluation_cohorts, num_training, self._held
        )
        self._failures = [*self._failures, *failures]
        if self._evaluation is None:
            raise RoundError(f"round {server_round}: no unseen client could be served; first: {_first(failures)}")
        self._held = held_sets(self._evaluation)
        return MetricRecord({name: float(values["mean"]) for name, values in self._evaluation["methods"].items()})

    def summary(self) -> None:
        """Logs nothing: the run's header says it all."""

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        timeout: float | None = None,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None = None,
    ) -> Result:
        """Runs the rounds from `federation.first_round` on and returns Flower's result; each round is recorded.

        Where `evaluate.ema` is above 0, the server's moving average is what gets evaluated; training goes on from the
        last state. A node has `timeout` seconds for each of its orders (`None`: as `clients.timeout` says).
        """
        patience = self.federation.settings.clients.timeout if timeout is None else timeout
        result, arrays, self.num_rounds = Result(), initial_arrays, num_rounds
        config = ConfigRecord()
        for round_num in range(self.federation.first_round, num_rounds + 1):
            started = time.perf_counter()
            replies = grid.send_and_receive(
                self.configure_train(round_num, arrays, train_config or config, grid), timeout=patience
            )
            merged, metrics = self.aggregate_train(round_num, replies)
            if merged is None or metrics is None:
                raise RoundError(f"round {round_num}: aggregate_train must return arrays and metrics")
            arrays = result.arrays = merged
            result.train_metrics_clientapp[round_num] = metrics
            evaluating = time.perf_counter()
            served = self._served_state()
            asked: Iterable[Message] = ()
            self._evaluation_cohorts = {}
            if self._is_evaluated(round_num):
                asked = self.configure_evaluate(round_num, record_of(served), evaluate_config or config, grid)
            measured = self.aggregate_evaluate(round_num, grid.send_and_receive(asked, timeout=patience))
            if measured is not None:
                result.evaluate_metrics_clientapp[round_num] = measured
            if evaluate_fn is not None and (central := evaluate_fn(round_num, arrays)) is not None:
                result.evaluate_metrics_serverapp[round_num] = central
            now = time.perf_counter()
            seconds = {
                "round": round(now - started, 4),
                "evaluate": round(now - evaluating, 4),
                "personalise": self._personalise,
            }
            line = self._line(round_num, float(metrics["loss"]), seconds)  # type: ignore[arg-type]
            self.federation.recorder.round(line, self._state, self._average)
        return result

    def _is_evaluated(self, round_num: int) -> bool:
        return round_num == self.num_rounds or round_num % self.federation.settings.evaluate.every == 0

    def _served_state(self) -> ServerState:
        decay = self.federation.settings.evaluate.ema
        if decay == 0:
            return self._state
        self._average = self._state if self._average is None else moving_average(self._average, self._state, decay)
        return self._average

    def _rank(
        self, round_num: int, asked: Sequence[int], state: ServerState, grid: Grid
    ) -> tuple[dict[int, tuple[float, ...]], list[ClientFailure]]:
        if not asked or self._roster is None:
            return {}, []
        orders = rank_orders(
            self.federation.at(round_num), self._roster, round_num, asked, state, self._by, self.serving().aggregation
        )
        contents = {node_id: content for node_id, (_, content) in orders.items()}
        patience = self.federation.settings.clients.timeout
        replies = exchange(grid, "query.rank", str(round_num), contents, patience)
        return gather_rankings(round_num, replies.values(), {n: cohort for n, (cohort, _) in orders.items()})

    def sent(self, jobs: Sequence[ClientJob]) -> RoundBytes:
        """Returns the bytes of the round at hand, with these jobs handed out."""
        answered = self.rankings.keys() & set(self._asked)
        numbers = self.ranking_indices()
        return self.federation.ledger.round(jobs, self._asked, answered, numbers, self._by, self._nonzeros)

    def replace_average(self, expert_id: int, vector: Vector) -> None:
        """Puts another expert into the pool's moving average, where there is one: of two it would be neither."""
        if self._average is not None:
            experts = list(self._average.experts)
            experts[expert_id] = vector
            self._average = replace(self._average, experts=tuple(experts))

    def _line(self, round_num: int, loss: float, seconds: Mapping[str, float | None]) -> dict[str, Any]:
        """Returns the round's line in `rounds.jsonl`."""
        sent = self.sent(self._jobs)
        load = [0] * self.num_experts
        for held in self._assignment.values():
            for expert_id in held:
                load[expert_id] += 1
        return {
            "round": round_num,
            "clients": list(self._clients),
            "assignment": {str(client): list(held) for client, held in sorted(self._assignment.items())},
            "completed": self._completed,
            "failures": [_plain(failure) for failure in self._failures],
            "train": {"loss": loss, "examples": sum(row["num_examples"] for row in self._rows)},
            **self.ranking_record(),
            "load": load,
            "bytes": {"down": sent.down, "up": sent.up, "by_expert": list(sent.by_expert)},
            "evaluate": self._evaluation,
            "seconds": dict(seconds),
        }


def _several(jobs: Sequence[ClientJob]) -> Sequence[ClientJob]:
    if isinstance(jobs, ClientJob):
        raise TypeError("jobs must return a sequence of jobs, got one job; hint: a comma behind it, or override job")
    sent = [name for job in jobs if job.sends for name in job.instead.values() or map(job.source_of, job.experts)]
    if len(set(sent)) < len(sent):
        raise ValueError(f"of a client's jobs one may send an expert, got {sent} of client {jobs[0].client_id}")
    return jobs


def _first(failures: Sequence[ClientFailure]) -> str:
    if not failures:
        return "none was named"
    first = failures[0]
    return f"client {first.client_id} ({first.stage}): {first.error}"


def _plain(failure: ClientFailure) -> dict[str, Any]:
    return {"stage": failure.stage, "client": failure.client_id, "round": failure.round_num, "error": failure.error}
