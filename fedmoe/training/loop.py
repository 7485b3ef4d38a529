"""The loop trainer: client after client, batch after batch; slow, obviously right, the reference.

One resident set of modules is kept per worker, and each client's parameters are copied into it in place.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from itertools import compress

import torch
from torch import Tensor, nn

from fedmoe.federation.heads import gate_of
from fedmoe.federation.job import ClientFailure, ClientJob, ClientUpdate, Turn
from fedmoe.federation.state import ServerState
from fedmoe.moe.expert import Expert
from fedmoe.moe.gate import Gate
from fedmoe.moe.vectors import Vector, load_vector, parts_of, to_vector
from fedmoe.training.augmentation import augment
from fedmoe.training.keeping import Start, is_trained, moves
from fedmoe.training.objective import Batch, LocalModel, Objective, load_objective
from fedmoe.training.one_by_one import one_by_one
from fedmoe.training.optimiser import make_optimiser
from fedmoe.training.precision import computing_in, lay_out
from fedmoe.training.samples import ClientSamples
from fedmoe.training.schedule import epochs_of
from fedmoe.training.stack import pool_of
from fedmoe.training.trainer import Workplace

__all__ = ["LoopTrainer"]


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
        return one_by_one(jobs, lambda job: self.train_client(job, state))

    def train_client(self, job: ClientJob, state: ServerState) -> ClientUpdate:
        """Returns what the client gives back after its local epochs."""
        started, state = time.perf_counter(), state.with_instead(job.instead)
        experts, gate = self._modules(job, len(state.experts))
        begun = self.place.start_of(job, state, experts[0], gate)
        _load(begun, experts, gate)
        samples = self.place.store.load(
            self.place.samples_of(job),
            None if gate is None else gate.reads,
            self.place.lots(job, len(state.experts)),
            common=gate is not None and gate.falls_back,
        )
        samples = replace(samples, lots=self.place.expert_lots(job))
        model = self._model(job, state, experts, gate, begun)
        loss = self._epochs(job, model, experts, gate, samples)
        trained = [to_vector(module) for module in _present(experts, gate)]
        metrics = {"loss": loss, "seconds": time.perf_counter() - started}
        return self.place.finished(job, begun, trained, (experts[0], gate), metrics)

    def _modules(self, job: ClientJob, num_experts: int) -> tuple[list[Expert], Gate | None]:
        """Returns the resident modules that the job works with."""
        while len(self.experts) < len(job.experts):
            expert = self.place.make_expert()
            self.experts.append(expert.to(memory_format=self.memory_format))
        return self.experts[: len(job.experts)], self.place.gate_for(num_experts) if job.gate else None

    def _model(
        self, job: ClientJob, state: ServerState, experts: Sequence[Expert], gate: Gate | None, begun: Start
    ) -> LocalModel:
        modules, device = _present(experts, gate), self.place.device
        trained = [p for module in modules for p in _trained(module, job, gate).values()]

        def shaped(vectors: Sequence[Vector]) -> list[Tensor]:
            """Returns vectors of experts and gate as a list of tensors like the trained ones."""
            tensors = []
            for module, vector in zip(modules, vectors, strict=True):
                own = pool_of(module, [vector], device)
                tensors += [own[name][0] for name in _trained(module, job, gate)]
            return tensors

        given = None if gate is None else gate_of(state, job.head)
        sent = [*(state.experts[i] for i in job.experts), *([] if given is None else [given])]
        return LocalModel(
            experts=lambda *given: torch.stack([expert(*given) for expert in experts]),
            gate=gate,
            expert_ids_K=torch.tensor(job.experts, device=self.place.device),
            num_experts=len(state.experts),
            trained=trained,
            start=cache(lambda: shaped(sent)),
            log_prior_C=self.place.log_prior_C(job),
            memory={name: shaped(vectors) for name, vectors in begun.memory.items()},
            shared={name: shaped(vectors) for name, vectors in begun.shared.items()},
            given={name: torch.tensor(values, device=device) for name, values in job.given.items()},
            span=self.place.store.span,
        )

    def _epochs(
        self,
        job: ClientJob,
        model: LocalModel,
        experts: Sequence[Expert],
        gate: Gate | None,
        samples: ClientSamples,
    ) -> float:
        """Runs the local epochs; returns the mean over batches of the (first turn's) loss."""
        of_gate = 0 if gate is None else len(_trained(gate, job, gate))
        of_experts = len(model.trained) - of_gate
        each = of_experts // len(experts)
        by_expert = [model.trained[first : first + each] for first in range(0, of_experts, max(1, each))]
        penalties = (job.shrink, job.shrink_gate)
        optimiser = make_optimiser(self.place.settings, by_expert, model.trained[of_experts:], shrink=penalties)
        moving = [_moving(turn, experts, gate, job) if job.turns else [True] * len(model.trained) for turn in job.steps]
        turns = [(load_objective(turn.objective), turn.part, own) for turn, own in zip(job.steps, moving, strict=True)]
        validates_N = self.place.validation_of(job) if job.splits else None
        losses: list[Tensor] = []
        for rows_B, batch in self._batches(job, samples):
            for number, (objective, part, own) in enumerate(turns):
                seen = batch if validates_N is None else _counting(batch, part, validates_N[rows_B])
                loss = self._step(model, optimiser, objective, seen, own)
                if number == 0:
                    losses.append(loss)
            if len(losses) == self.max_steps:
                break
        return float(torch.stack(losses).mean())

    def _step(
        self,
        model: LocalModel,
        optimiser: torch.optim.Optimizer,
        objective: Objective,
        batch: Batch,
        moving: Sequence[bool],
    ) -> Tensor:
        """Steps those of the trained parameters that move, and returns the loss before."""
        with computing_in(self.place.settings.precision, self.place.device):
            loss = objective(model, batch)
        optimiser.zero_grad(set_to_none=True)
        leaves = list(compress(model.trained, moving))
        if leaves:  # nothing may move in a turn of the gate's, if the gate has nothing to train
            loss.backward(inputs=leaves)  # type: ignore[no-untyped-call]
        for parameter in leaves:
            if parameter.grad is None:  # a held expert that the objective leaves out is not left out of the decay
                parameter.grad = torch.zeros_like(parameter)
        optimiser.step()
        return loss.detach()

    def _batches(self, job: ClientJob, samples: ClientSamples) -> Iterator[tuple[Tensor, Batch]]:
        """Yields the client's batches, each with the rows of its samples, in the order of its own stream."""
        settings, device = self.place.settings, self.place.device
        epochs = epochs_of(len(samples), self.place.epochs(job), settings.augmentation, self.place.stream(job))
        for epoch in epochs:
            order = epoch.order_N.to(device)
            lots = None if epoch.lots_N3 is None else epoch.lots_N3.to(device)
            for first in range(0, len(order), settings.batch_size):
                part = slice(first, first + settings.batch_size)
                x_BCHW = augment(samples.inputs(order[part]), None if lots is None else lots[part])
                x_BCHW = x_BCHW.contiguous(memory_format=self.memory_format)
                own = (samples.y, samples.gate_input, samples.common, samples.lots)
                y_B, gate_BD, common_BC, lots_BL = (values[order[part]] for values in own)
                yield order[part], Batch(x_BCHW, y_B, gate_BD, common_BC=common_BC, lots_BL=lots_BL)


def _present(experts: Sequence[Expert], gate: Gate | None) -> list[nn.Module]:
    return [*experts, *([] if gate is None else [gate])]


def _load(begun: Start, experts: Sequence[Expert], gate: Gate | None) -> None:
    """Copies the vectors that the work starts from into the resident modules."""
    vectors = [*begun.experts, *([] if begun.gate is None else [begun.gate])]
    for module, vector in zip(_present(experts, gate), vectors, strict=True):
        load_vector(module, vector)
        module.train()


def _trained(module: nn.Module, job: ClientJob, gate: Gate | None) -> dict[str, nn.Parameter]:
    """Returns the module's parameters that the job trains, by name."""
    names = {part.name for part in parts_of(module) if is_trained(part, job, gate=module is gate)}
    return {name: parameter for name, parameter in module.named_parameters() if name in names}


def _moving(turn: Turn, experts: Sequence[Expert], gate: Gate | None, job: ClientJob) -> list[bool]:
    """Returns, for each parameter that the job trains, in the model's order, whether it moves in the turn."""
    return [
        moves(part, turn.trains, gate=module is gate)
        for module in _present(experts, gate)
        for part in parts_of(module)
        if is_trained(part, job, gate=module is gate)
    ]


def _counting(batch: Batch, part: str, validates_B: Tensor) -> Batch:
    """Returns the samples of the batch that count; all of them with weights of 0, where none does."""
    if part == "all":
        return batch
    counts_B = validates_B if part == "validation" else ~validates_B
    if not counts_B.any():
        return replace(batch, weight_B=counts_B.float())
    names = ("x_BCHW", "y_B", "gate_BD", "common_BC", "lots_BL")
    return Batch(**{name: getattr(batch, name)[counts_B] for name in names})
