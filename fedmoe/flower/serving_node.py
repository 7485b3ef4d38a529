"""One process's workplace for one run: the samples memory-mapped, resident modules; it ranks and serves."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedmoe.data.embeddings import open_embeddings
from fedmoe.data.population_cache import open_population
from fedmoe.data.prepared import open_prepared
from fedmoe.evaluation.attempts import attempt
from fedmoe.evaluation.chunks import chunks
from fedmoe.evaluation.outputs import gate_logits
from fedmoe.evaluation.priors import voted_prior
from fedmoe.evaluation.ranking import client_scores, loss_scores, mixture_shares
from fedmoe.evaluation.robust import Ground, under_attack
from fedmoe.evaluation.served import cold_order, lots_of, mean_embedding, seen_ids, served_ids, ties_of
from fedmoe.evaluation.serving import Serving
from fedmoe.evaluation.zero_shot import ClientResult, serve_clients
from fedmoe.federation.grouping import print_of
from fedmoe.federation.heads import HEADS, gate_of, head_for
from fedmoe.federation.job import ClientJob
from fedmoe.federation.state import ServerState
from fedmoe.flower.wire import answers_of, partial_state, result_to_json, serving_from_json
from fedmoe.moe.construction import (
    build_expert,
    build_gate,
    expert_reads,
    expert_spec,
    gate_class,
    gate_spec,
    stands_on_common,
)
from fedmoe.moe.expert import Expert
from fedmoe.moe.gate import Gate
from fedmoe.moe.vectors import load_vector
from fedmoe.recording.client_states import ClientStates, RoundStates
from fedmoe.settings import Settings
from fedmoe.training.common_weights import open_weights
from fedmoe.training.fine_tuning import fine_tuned
from fedmoe.training.sample_store import SampleStore
from fedmoe.training.samples import Lots
from fedmoe.training.speed import TrainerChoice, make_trainer
from fedmoe.training.trainer import Workplace

__all__ = ["ServingNode"]

MOST_SAMPLES = 8192  # that are ranked or served at once
MOST_BYTES = 1 << 26  # of their images and of what all experts say of them


class ServingNode:
    """What one process needs to rank experts for clients and to serve them; `Node` also trains.

    Args:
        settings: the run's.
        plan: what the server fixed: `data`, `embeddings` (cache keys), `common` (fingerprint), `partition` (hash),
            `gate` (its name).
        device: where this node computes.
        sharers: processes that share the device's memory; a stack takes its part of what is free.

    Raises:
        DataError: this node does not find what the server prepared.
    """

    def __init__(self, settings: Settings, plan: Mapping[str, Any], device: torch.device, *, sharers: int = 1) -> None:
        self.settings, self.plan, self.device = settings, plan, device
        prepared = open_prepared(str(plan["data"]))
        self.population = open_population(str(plan["partition"]), prepared.dataset.y_N)
        table = open_embeddings(str(plan["embeddings"]))
        reads = expert_reads(settings.experts.model)
        self.store = SampleStore.of(prepared.dataset, self.population, table, device, reads)
        self.test_ids = np.arange(prepared.dataset.num_train, len(prepared.dataset.y_N))
        shape, classes, base = self.store.in_shape, len(prepared.dataset.class_names), None
        if stands_on_common(settings.experts.model):
            base = open_weights(settings, shape, classes, str(plan["common"]))
        self.spec = expert_spec(settings, shape, classes, common=base)
        self.common = None  # which an attack goes through
        if settings.evaluate.attack_eps:
            self.common = open_weights(settings, shape, classes, str(plan["common"])).to(device)
        self.gate_name = str(plan["gate"])
        self.gate_reads = gate_class(self.gate_name).reads
        self.gates: dict[int, Gate] = {}  # by the size of the pool
        self.place = Workplace(
            make_expert=self._build_expert,
            gate_for=self.gate_for,
            settings=settings.train,
            store=self.store,
            population=self.population,
            seed=settings.seed,
            sharers=sharers,
            deterministic=settings.deterministic,
            recall=self._recall,
        )
        self.states: RoundStates | None = None  # of the order at hand
        # fine-tunes those that are tested: one client at a time
        self.tuner = make_trainer(self.place, TrainerChoice(kind="loop"))
        self.scratch = self._build_expert()

    def __reduce__(self) -> Any:
        """Makes a worker that starts afresh build the node anew, from the caches."""
        return partial(type(self), self.settings, self.plan, self.device, sharers=self.place.sharers), ()

    def rank(self, order: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
        """Returns, for each client asked about, its score of every expert."""
        state = partial_state(arrays, order["num_experts"])
        round_num = int(order["round"])

        def scores(clients: Sequence[int]) -> list[list[float]]:
            ids = [self.population.shards[client] for client in clients]
            if order["by"] == "mean":
                return [self._mean_embedding(some).tolist() for some in ids]
            if order["by"] in ("fingerprint", "embedding"):
                prints = [self.store.gate_input(some, order["by"]) for some in ids]
                return [print_of(own.cpu().numpy()).numbers() for own in prints]
            if order["by"] != "gate":
                by = {"loss": loss_scores, "likelihood": mixture_shares}[order["by"]]
                own = [self.store.load(some, reads=None) for some in ids]
                priors = [self.place.log_prior_of(some) for some in ids]
                return by(self._loaded(state.experts), len(state.experts), own, priors)
            gate = self._received_gate(state.gate, len(state.experts))
            lots = [self._lots("rank", round_num, client, gate) for client in clients]
            inputs = [self.store.gate_input(some, gate.reads, drawn) for some, drawn in zip(ids, lots, strict=True)]
            return [client_scores(logits, order["aggregation"]) for logits in gate_logits(gate, inputs)]

        done, failures = attempt("rank", round_num, self.together(order["clients"], len(state.experts)), scores)
        return answers_of("rankings", done, failures)

    def _states_of(self, order: Mapping[str, Any], round_num: int) -> RoundStates | None:
        folder = order.get("states", "")
        return RoundStates(ClientStates(Path(folder), self.settings.checkpoint_every), round_num) if folder else None

    def _own_prior(self, client_id: int) -> torch.Tensor:
        """Returns the label prior that a training client's own parts stand under."""
        prior_C = self.population.label_prior(self.population.shards[client_id])
        if self.settings.train.logit_adjustment:  # the loss has taken it out
            prior_C = (prior_C > 0) / (prior_C > 0).sum()
        return torch.from_numpy(prior_C)

    def _own_state(self, client_id: int, state: ServerState, serving: Serving, round_num: int) -> ServerState:
        """Returns the state as a training client has it after the round: with its private parts, or fine-tuned."""
        if serving.fine_tuning:
            return fine_tuned(self.tuner, client_id, state, serving.fine_tuning, round_num + 1)
        if not serving.private:
            return state
        job = ClientJob(
            client_id=client_id,
            round_num=round_num,
            experts=tuple(range(len(state.experts))),
            objective=(),
            gate=state.gate is not None,
            private=serving.private,
        )
        gate = self.gate_for(len(state.experts)) if job.gate else None
        own = self.place.start_of(job, state, self.scratch, gate)
        return replace(state, experts=own.experts, gate=own.gate)

    def _headed(self, client_id: int, state: ServerState, known: int) -> ServerState:
        """Returns the state as the client gets it: with its own head, or the nearest one, in the gate's place."""
        if HEADS not in state.extras:
            return state
        population, limit = self.population, self.settings.evaluate.samples
        mean_D = self._mean_embedding(served_ids(population, client_id, limit, self.settings.seed))
        return replace(state, gate=gate_of(state, head_for(state.extras, known, mean_D)))

    def _mean_embedding(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        return mean_embedding(self.store.gate_input(ids, "embedding"))

    def _recall(self, job: ClientJob) -> dict[str, NDArray[np.float32]]:
        return self._present_states(job.client_id).load(job.client_id)

    def _present_states(self, client_id: int) -> RoundStates:
        if self.states is None:
            raise ValueError(
                f"client {client_id} shall keep something; hint: Federation(states=...) must name a folder"
            )
        return self.states

    def evaluate(self, order: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
        """Returns how each client asked about fares, a training client with what it keeps."""
        state = partial_state(arrays, order["num_experts"])
        serving, round_num = serving_from_json(order["serving"]), int(order["round"])
        prior = torch.tensor(order["train_prior"], dtype=torch.float64)

        heads: Mapping[str, int] = order.get("heads", {})

        def serve(clients: Sequence[int]) -> list[dict[str, Any]]:
            given = self._headed(clients[0], state, heads.get(str(clients[0]), -1))
            if clients[0] >= self.population.num_training:
                return [result_to_json(result) for result in self.serve(clients, given, serving, prior, round_num)]
            own = self._own_state(clients[0], given, serving, round_num)
            under = self._own_prior(clients[0]) if "head" in serving.private or serving.fine_tuning else prior
            ordinary = replace(serving, cold_start=())
            return [result_to_json(result) for result in self.serve(clients, own, ordinary, under, round_num)]

        self.states = self._states_of(order, round_num + 1)
        seen = [[client] for client in order["clients"] if client < self.population.num_training]
        unseen = [client for client in order["clients"] if client >= self.population.num_training]
        alone = HEADS in state.extras  # each with a gate of its own
        chunks = [*seen, *([[one] for one in unseen] if alone else self.together(unseen, len(state.experts)))]
        done, failures = attempt("evaluate", round_num, chunks, serve)
        return answers_of("results", done, failures)

    def serve(
        self,
        clients: Sequence[int],
        state: ServerState,
        serving: Serving,
        train_prior_C: torch.Tensor,
        round_num: int,
    ) -> list[ClientResult]:
        """Returns how each of these clients fares with the state; memory grows with their samples."""
        seed, limit, num_experts = self.settings.seed, self.settings.evaluate.samples, len(state.experts)
        gate = None if state.gate is None else self._received_gate(state.gate, num_experts)
        ids = [
            served_ids(self.population, client, limit, seed)
            if client >= self.population.num_training
            else seen_ids(self.population, client, self.test_ids, limit, seed)
            for client in clients
        ]
        lots = [self._lots("evaluate", round_num, client, gate) if gate else None for client in clients]
        reads = gate.reads if gate else None
        samples = [self.store.load(own, reads, drawn) for own, drawn in zip(ids, lots, strict=True)]
        ties = [ties_of(seed, round_num, client) for client in clients]
        orders = [cold_order(client, len(own), seed) for client, own in zip(clients, ids, strict=True)]
        load = self._loaded(state.experts)
        prior_C = voted_prior(train_prior_C, self.population, serving.common_vote)
        asked = serving.common_vote or (gate is not None and gate.falls_back)
        common = [self.store.common_logits(own).cpu() for own in ids] if asked else ()
        results = serve_clients(gate, load, num_experts, samples, serving, prior_C, ties, orders, common)
        if not self.settings.evaluate.attack_eps or clients[0] < self.population.num_training:
            return results
        ground = Ground(store=self.store, common=self.common, seed=seed, asked=self.settings.evaluate)
        return under_attack(ground, clients, results, samples, gate, load, num_experts, serving)

    def together(self, clients: Sequence[int], num_experts: int) -> list[Sequence[int]]:
        """Returns the clients in chunks that are ranked or served at once, as many as memory shall hold."""
        bytes_each = self.store.images[0].nbytes + 4 * num_experts * self.spec.num_classes
        sizes = [len(self.population.shards[client]) for client in clients]
        return [clients[part] for part in chunks(sizes, min(MOST_SAMPLES, MOST_BYTES // bytes_each))]

    def _build_expert(self) -> Expert:
        return build_expert(self.settings.experts.model, self.spec, 0).to(self.device)

    def gate_for(self, num_experts: int) -> Gate:
        """Returns the resident gate for a pool of this size."""
        if num_experts not in self.gates:
            width = self.store.gate_width(self.gate_reads, num_experts)
            spec = gate_spec(self.settings, self.gate_name, width, num_experts, self.store.in_shape)
            self.gates[num_experts] = build_gate(self.gate_name, spec, 0).to(self.device)
        return self.gates[num_experts]

    def _lots(self, stage: str, round_num: int, client_id: int, gate: Gate) -> Lots:
        return lots_of(self.settings.seed, stage, round_num, client_id, gate)

    def _received_gate(self, vector: "NDArray[np.float32] | None", num_experts: int) -> Gate:
        if vector is None:
            raise ValueError("the order has no gate; hint: the strategy's has_gate must be True")
        gate = self.gate_for(num_experts)
        load_vector(gate, vector)
        return gate

    def _loaded(self, experts: Sequence[NDArray[np.float32]]) -> Callable[[int], Expert]:
        def load(expert_id: int) -> Expert:
            load_vector(self.scratch, experts[expert_id])
            return self.scratch

        return load
