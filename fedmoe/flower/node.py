"""One process's workplace for one run: the samples memory-mapped, resident modules, and the work of a cohort."""

import bdb
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from fedmoe.data.embeddings import open_embeddings
from fedmoe.data.population_cache import open_population
from fedmoe.data.prepared import open_prepared
from fedmoe.evaluation.ranking import client_scores, loss_scores
from fedmoe.evaluation.served import served_ids
from fedmoe.evaluation.zero_shot import ClientResult, Serving, serve_client
from fedmoe.federation.job import ClientFailure, ClientUpdate
from fedmoe.federation.merging import Sums
from fedmoe.federation.state import ServerState
from fedmoe.flower.wire import job_from_json, partial_state
from fedmoe.moe.construction import build_expert, build_gate, gate_class
from fedmoe.moe.expert import Expert
from fedmoe.moe.gate import Gate, GateSpec
from fedmoe.moe.vectors import load_vector
from fedmoe.seeding import derive_seed, numpy_stream
from fedmoe.settings import Settings
from fedmoe.training.common_expert import expert_spec
from fedmoe.training.loop import LoopTrainer
from fedmoe.training.samples import SampleStore

__all__ = ["Node"]

_log = logging.getLogger(__name__)
Result = TypeVar("Result")


class Node:
    """What one process needs to do clients' work; built once a process and run.

    Args:
        settings: the run's.
        plan: what the server fixed: `data`, `embeddings` (cache keys), `partition` (hash).
        device: where this node computes.

    Raises:
        DataError: this node does not find what the server prepared.
    """

    def __init__(self, settings: Settings, plan: Mapping[str, Any], device: torch.device) -> None:
        self.settings = settings
        self.device = device
        prepared = open_prepared(str(plan["data"]))
        self.population = open_population(str(plan["partition"]), prepared.dataset.y_N)
        table = open_embeddings(str(plan["embeddings"]))
        self.store = SampleStore.of(prepared.dataset, self.population, table, device)
        self.spec = expert_spec(settings, prepared.dataset)
        self.gate_reads = gate_class(settings.gate.name).reads
        self.gates: dict[int, Gate] = {}  # by the size of the pool
        self.trainer = LoopTrainer(
            make_expert=self._build_expert,
            gate_for=self.gate_for,
            settings=settings.train,
            store=self.store,
            population=self.population,
            seed=settings.seed,
        )
        self.scratch = self._build_expert()

    def rank(self, order: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
        """Returns, for each client asked about, its score of every expert."""
        state = partial_state(arrays, order["num_experts"])
        round_num = int(order["round"])

        def scores(client_id: int) -> list[float]:
            ids = self.population.shards[client_id]
            if order["by"] == "loss":
                return loss_scores(self._loaded(state.experts), len(state.experts), self.store.load(ids))
            gate = self._received_gate(state.gate, len(state.experts), "rank", round_num, client_id)
            return client_scores(gate, self.store.gate_input(ids, gate.reads), order["aggregation"])

        done, failures = self._each("rank", round_num, order["clients"], scores)
        return {"rankings": {str(client): score for client, score in done.items()}, "failures": failures}

    def train(
        self, order: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
    ) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Returns the report (a row a client, weights of the sums, failures) and the sums, or each client's update."""
        state = partial_state(arrays, order["num_experts"])
        sums, rows, failures = Sums(self.settings.deterministic), [], []
        kept: dict[str, NDArray[Any]] = {}
        for outcome in self.trainer.train([job_from_json(job) for job in order["jobs"]], state):
            if isinstance(outcome, ClientFailure):
                failures.append(asdict(outcome))
                continue
            rows.append(row_of(outcome))
            if order["merges"] == "updates":
                kept |= {f"{outcome.client_id}/{name}": vector for name, vector in outcome.vectors().items()}
            else:
                sums.add(outcome)  # one client at a time: memory does not grow with the cohort
        report = {"rows": rows, "failures": failures}
        if order["merges"] == "updates":
            return report, kept
        return report | {"weights": sums.weights}, sums.arrays

    def evaluate(self, order: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
        """Returns how each unseen client asked about fares."""
        state = partial_state(arrays, order["num_experts"])
        serving, round_num = Serving(**order["serving"]), int(order["round"])
        prior = torch.tensor(order["train_prior"], dtype=torch.float64, device=self.device)

        def serve(client_id: int) -> dict[str, Any]:
            return plain_result(self.serve(client_id, state, serving, prior, round_num))

        done, failures = self._each("evaluate", round_num, order["clients"], serve)
        return {"results": {str(client): result for client, result in done.items()}, "failures": failures}

    def serve(
        self, client_id: int, state: ServerState, serving: Serving, train_prior_C: torch.Tensor, round_num: int
    ) -> ClientResult:
        """Returns how one unseen client fares with the state."""
        gate = None
        if state.gate is not None:
            gate = self._received_gate(state.gate, len(state.experts), "evaluate", round_num, client_id)
        ids = served_ids(self.population, client_id, self.settings.evaluate.samples, self.settings.seed)
        samples = self.store.load(ids, gate.reads if gate else "embedding")
        ties = numpy_stream(self.settings.seed, "evaluate", "ties", round_num, client_id)
        load = self._loaded(state.experts)
        return serve_client(gate, load, len(state.experts), samples, serving, train_prior_C, ties)

    def _each(
        self, stage: str, round_num: int, clients: Sequence[int], work: Callable[[int], Result]
    ) -> tuple[dict[int, Result], list[dict[str, Any]]]:
        """Does the work for each client; one that raises is named and left out."""
        done: dict[int, Result] = {}
        failures = []
        for client_id in clients:
            try:
                done[client_id] = work(client_id)
            except bdb.BdbQuit:  # a person at the debugger has had enough
                raise
            except Exception as error:  # named, counted and recorded by the server; the others go on
                text = f"{type(error).__name__}: {error}"
                _log.exception("client %d failed in round %d (%s)", client_id, round_num, stage)
                failures.append(
                    asdict(ClientFailure(stage=stage, client_id=client_id, round_num=round_num, error=text))
                )
        return done, failures

    def _build_expert(self) -> Expert:
        return build_expert(self.settings.experts.model, self.spec, 0).to(self.device)

    def gate_for(self, num_experts: int) -> Gate:
        """Returns the resident gate for a pool of this size."""
        if num_experts not in self.gates:
            spec = GateSpec(
                in_features=self.store.gate_width(self.gate_reads),
                num_experts=num_experts,
                hidden=self.settings.gate.hidden,
            )
            self.gates[num_experts] = build_gate(self.settings.gate.name, spec, 0).to(self.device)
        return self.gates[num_experts]

    def _received_gate(
        self, vector: "NDArray[np.float32] | None", num_experts: int, stage: str, round_num: int, client_id: int
    ) -> Gate:
        if vector is None:
            raise ValueError("the order has no gate; hint: the strategy's has_gate must be True")
        gate = self.gate_for(num_experts)
        load_vector(gate, vector)
        gate.eval()
        gate.reseed(derive_seed(self.settings.seed, "gate", stage, round_num, client_id))
        return gate

    def _loaded(self, experts: Sequence[NDArray[np.float32]]) -> Callable[[int], Expert]:
        def load(expert_id: int) -> Expert:
            load_vector(self.scratch, experts[expert_id])
            return self.scratch.eval()

        return load


def row_of(update: ClientUpdate) -> dict[str, Any]:
    """Returns what the report says of a client that completed."""
    return {
        "client_id": update.client_id,
        "num_examples": update.num_examples,
        "weight": update.weight,
        "metrics": dict(update.metrics),
    }


def plain_result(result: ClientResult) -> dict[str, Any]:
    """Returns the result as a table that JSON can hold."""
    table = vars(result).copy()
    for name in ("routed_MC", "class_count_C", "correct_MC"):
        table[name] = None if table[name] is None else table[name].tolist()
    return table
