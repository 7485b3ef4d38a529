"""The loop trainer: client after client, batch after batch; slow, obviously right, the reference.

One resident set of modules is kept per worker, and each client's parameters are copied into it in place.
"""

import bdb
import logging
import time
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedmoe.data.population import Population
from fedmoe.federation.job import ClientFailure, ClientJob, ClientUpdate
from fedmoe.federation.merging import diverged
from fedmoe.federation.state import ServerState
from fedmoe.moe.expert import Expert
from fedmoe.moe.gate import Gate
from fedmoe.moe.vectors import load_vector, to_vector
from fedmoe.seeding import derive_seed, torch_stream
from fedmoe.settings import TrainSettings
from fedmoe.training.objective import Batch, LocalModel, Objective, load_objective
from fedmoe.training.samples import ClientSamples, SampleStore

__all__ = ["LoopTrainer"]

_log = logging.getLogger(__name__)


class LoopTrainer:
    """Trains clients one after another.

    Args:
        make_expert: builds an expert with any weights, on the device.
        gate_for: gives the resident gate, on the device, for a pool of M experts.
        settings: how clients train.
        store: the samples.
        population: who holds which.
        seed: root of the clients' own streams.
    """

    def __init__(
        self,
        *,
        make_expert: Callable[[], Expert],
        gate_for: Callable[[int], Gate],
        settings: TrainSettings,
        store: SampleStore,
        population: Population,
        seed: int,
    ) -> None:
        self.make_expert = make_expert
        self.gate_for = gate_for
        self.settings = settings
        self.store = store
        self.population = population
        self.seed = seed
        self.experts: list[Expert] = []

    def train(self, jobs: Iterable[ClientJob], state: ServerState) -> Iterator[ClientUpdate | ClientFailure]:
        """Yields, for each job in turn, its update, or its failure where it raised or its weights diverged."""
        for job in jobs:
            try:
                update = self.train_client(job, state)
                problem = diverged(update)
            except bdb.BdbQuit:  # a person at the debugger has had enough
                raise
            except Exception as error:  # a client's failure must not end the round: it is named, counted, recorded
                problem = f"{type(error).__name__}: {error}"
                _log.exception("client %d failed in round %d (train)", job.client_id, job.round_num)
            if problem is None:
                yield update
            else:
                yield ClientFailure(stage="train", client_id=job.client_id, round_num=job.round_num, error=problem)

    def train_client(self, job: ClientJob, state: ServerState) -> ClientUpdate:
        """Returns what the client gives back after its local epochs."""
        started = time.perf_counter()
        model = self._receive(job, state)
        reads = "embedding" if model.gate is None else model.gate.reads
        samples = self.store.load(self.population.shards[job.client_id], reads)
        stream = torch_stream(self.seed, "train", "round", job.round_num, "client", job.client_id)
        if model.gate is not None:
            model.gate.reseed(derive_seed(self.seed, "gate", "round", job.round_num, "client", job.client_id))
        loss = self._epochs(job, model, load_objective(job.objective), samples, stream)
        return ClientUpdate(
            client_id=job.client_id,
            num_examples=len(samples),
            weight=len(samples) if job.weighting == "examples" else 1,
            gate=None if model.gate is None else to_vector(model.gate),
            experts={i: to_vector(expert) for i, expert in zip(job.experts, model.experts, strict=True)},
            metrics={"loss": loss, "seconds": time.perf_counter() - started},
        )

    def _receive(self, job: ClientJob, state: ServerState) -> LocalModel:
        """Copies the received vectors into the resident modules."""
        while len(self.experts) < len(job.experts):
            self.experts.append(self.make_expert())
        experts = self.experts[: len(job.experts)]
        for module, expert_id in zip(experts, job.experts, strict=True):
            load_vector(module, state.experts[expert_id])
            module.train()
        gate = self.gate_for(len(state.experts)) if job.gate else None
        if gate is not None:
            load_vector(gate, _present(state.gate))
            gate.train()
        prior = self.population.label_prior(job.client_id) if self.settings.logit_adjustment else None
        model = LocalModel(
            gate=gate,
            experts=experts,
            expert_ids=job.experts,
            num_experts=len(state.experts),
            start=(),
            log_prior_C=None if prior is None else _log_prior(prior).to(self.store.device),
        )
        start = tuple(parameter.detach().clone() for parameter in model.parameters())
        return LocalModel(**(vars(model) | {"start": start}))

    def _epochs(
        self,
        job: ClientJob,
        model: LocalModel,
        objective: Objective,
        samples: ClientSamples,
        stream: torch.Generator,
    ) -> float:
        """Runs the local epochs; returns the mean loss over their steps."""
        optimiser = self._optimiser(model)
        losses: list[Tensor] = []
        for _ in range(job.epochs or self.settings.epochs):
            order = torch.randperm(len(samples), generator=stream).to(self.store.device)
            for rows in torch.split(order, self.settings.batch_size):
                batch = Batch(samples.inputs(rows), samples.y[rows], samples.gate_input[rows])
                loss = objective(model, batch, job)
                optimiser.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                losses.append(loss.detach())
        return float(torch.stack(losses).mean())

    def _optimiser(self, model: LocalModel) -> torch.optim.Optimizer:
        """Returns SGD with momentum, fresh for every client and round; the gate has its own rate and momentum."""
        settings = self.settings
        groups = [
            {
                "params": [p for expert in model.experts for p in expert.parameters() if p.requires_grad],
                "lr": settings.learning_rate,
                "momentum": settings.momentum,
                "weight_decay": settings.weight_decay,
            }
        ]
        gate_parameters = [] if model.gate is None else [p for p in model.gate.parameters() if p.requires_grad]
        if gate_parameters:
            groups.append(
                {
                    "params": gate_parameters,
                    "lr": settings.gate_learning_rate,
                    "momentum": settings.gate_momentum,
                    "weight_decay": 0.0,
                }
            )
        return torch.optim.SGD(groups, lr=settings.learning_rate)


def _log_prior(prior_C: NDArray[np.float64]) -> Tensor:
    # a label that the client lacks gets a finite floor: its logit is pushed out of the softmax without becoming NaN
    return torch.from_numpy(np.log(np.maximum(prior_C, 1e-8))).float()


def _present(vector: NDArray[np.float32] | None) -> NDArray[np.float32]:
    if vector is None:
        raise ValueError("the job has a gate, but the server's state holds none")
    return vector
