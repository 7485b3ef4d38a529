"""The loop trainer: client after client, batch after batch; slow, obviously right, the reference.

One resident set of modules is kept per worker, and each client's parameters are copied into it in place.
"""

import bdb
import logging
import time
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedmoe.federation.job import ClientFailure, ClientJob, ClientUpdate
from fedmoe.federation.merging import diverged
from fedmoe.federation.state import ServerState
from fedmoe.moe.expert import Expert
from fedmoe.moe.gate import Gate
from fedmoe.moe.vectors import load_vector, to_vector
from fedmoe.training.augmentation import augment
from fedmoe.training.objective import Batch, LocalModel, Objective, load_objective
from fedmoe.training.optimiser import make_optimiser
from fedmoe.training.precision import computing_in, lay_out
from fedmoe.training.samples import ClientSamples
from fedmoe.training.schedule import epochs_of
from fedmoe.training.trainer import Workplace

__all__ = ["LoopTrainer"]

_log = logging.getLogger(__name__)


class LoopTrainer:
    """Trains clients one after another.

    Args:
        place: what it works with.
        layout: memory layout of images, `"contiguous"` or `"channels-last"`.
        max_steps: steps after which a client stops, where only the speed is measured; `None`: all.
    """

    def __init__(self, place: Workplace, *, layout: str = "contiguous", max_steps: int | None = None) -> None:
        self.place = place
        self.memory_format = lay_out(layout)
        self.max_steps = max_steps
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
        experts, gate = self._receive(job, state)
        samples = self.place.store.load(
            self.place.population.shards[job.client_id],
            None if gate is None else gate.reads,
            self.place.lots(job, len(state.experts)),
        )
        model = self._model(job, state, experts, gate)
        loss = self._epochs(job, model, experts, gate, load_objective(job.objective), samples)
        return ClientUpdate(
            client_id=job.client_id,
            num_examples=len(samples),
            weight=len(samples) if job.weighting == "examples" else 1,
            gate=None if gate is None else to_vector(gate),
            experts={i: to_vector(expert) for i, expert in zip(job.experts, experts, strict=True)},
            metrics={"loss": loss, "seconds": time.perf_counter() - started},
        )

    def _receive(self, job: ClientJob, state: ServerState) -> tuple[list[Expert], Gate | None]:
        """Copies the received vectors into the resident modules."""
        while len(self.experts) < len(job.experts):
            expert = self.place.make_expert()
            self.experts.append(expert.to(memory_format=self.memory_format))
        experts = self.experts[: len(job.experts)]
        for module, expert_id in zip(experts, job.experts, strict=True):
            load_vector(module, state.experts[expert_id])
            module.train()
        if not job.gate:
            return experts, None
        gate = self.place.gate_for(len(state.experts))
        load_vector(gate, _present(state.gate))
        gate.train()
        return experts, gate

    def _model(self, job: ClientJob, state: ServerState, experts: Sequence[Expert], gate: Gate | None) -> LocalModel:
        modules = [*experts, *([] if gate is None else [gate])]
        trained = [p for module in modules for p in module.parameters() if p.requires_grad]
        received = [parameter.detach().clone() for parameter in trained]
        return LocalModel(
            experts=lambda x_BCHW: torch.stack([expert(x_BCHW) for expert in experts]),
            gate=gate,
            expert_ids_K=torch.tensor(job.experts, device=self.place.device),
            num_experts=len(state.experts),
            trained=trained,
            start=lambda: received,
            log_prior_C=self.place.log_prior_C(job),
        )

    def _epochs(
        self,
        job: ClientJob,
        model: LocalModel,
        experts: Sequence[Expert],
        gate: Gate | None,
        objective: Objective,
        samples: ClientSamples,
    ) -> float:
        """Runs the local epochs; returns the mean loss over their steps."""
        settings, device = self.place.settings, self.place.device
        optimiser = make_optimiser(settings, _trainable(experts), _trainable([] if gate is None else [gate]))
        losses: list[Tensor] = []
        for batch in self._batches(job, samples):
            with computing_in(settings.precision, device):
                loss = objective(model, batch)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            for parameter in model.trained:
                if parameter.grad is None:  # a held expert that the objective leaves out is not left out of the decay
                    parameter.grad = torch.zeros_like(parameter)
            optimiser.step()
            losses.append(loss.detach())
            if len(losses) == self.max_steps:
                break
        return float(torch.stack(losses).mean())

    def _batches(self, job: ClientJob, samples: ClientSamples) -> Iterator[Batch]:
        """Yields the client's batches, in the order of its own stream."""
        settings, device = self.place.settings, self.place.device
        epochs = epochs_of(len(samples), self.place.epochs(job), settings.augmentation, self.place.stream(job))
        for epoch in epochs:
            order = epoch.order_N.to(device)
            lots = None if epoch.lots_N3 is None else epoch.lots_N3.to(device)
            for first in range(0, len(order), settings.batch_size):
                part = slice(first, first + settings.batch_size)
                x_BCHW = augment(samples.inputs(order[part]), None if lots is None else lots[part])
                x_BCHW = x_BCHW.contiguous(memory_format=self.memory_format)
                yield Batch(x_BCHW, samples.y[order[part]], samples.gate_input[order[part]])


def _trainable(modules: Sequence[torch.nn.Module]) -> list[Tensor]:
    return [p for module in modules for p in module.parameters() if p.requires_grad]


def _present(vector: NDArray[np.float32] | None) -> NDArray[np.float32]:
    if vector is None:
        raise ValueError("the job has a gate, but the server's state holds none")
    return vector
