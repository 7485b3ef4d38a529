"""What every trainer of clients is: the same jobs in, the same updates out; and the workplace that they share."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedmoe.data.population import Population
from fedmoe.federation.job import ClientFailure, ClientJob, ClientUpdate
from fedmoe.federation.state import ServerState
from fedmoe.moe.canonical import canonical
from fedmoe.moe.expert import Expert
from fedmoe.moe.gate import Gate
from fedmoe.seeding import derive_seed, torch_stream
from fedmoe.settings import TrainSettings
from fedmoe.training.keeping import Outcome, Start, kept_after, start_of
from fedmoe.training.objective import load_terms
from fedmoe.training.sample_store import SampleStore
from fedmoe.training.samples import Lots
from fedmoe.training.schedule import num_steps, validation_split

__all__ = ["LocalTrainer", "Workplace"]


class LocalTrainer(Protocol):
    """Trains clients on this machine: `LoopTrainer` one after another, `StackedTrainer` many as one program."""

    def train(self, jobs: Iterable[ClientJob], state: ServerState) -> Iterator[ClientUpdate | ClientFailure]:
        """Yields the update of each job, in any order, or its failure where it raised or its weights diverged."""
        ...


@dataclass(frozen=True, kw_only=True)
class Workplace:
    """What a trainer works with.

    Attributes:
        make_expert: builds an expert with any weights, on the device.
        gate_for: gives the resident gate, on the device, for a pool of M experts.
        settings: how clients train.
        store: the samples.
        population: who holds which.
        seed: root of the clients' own streams.
        sharers: processes that share the device's memory, this one among them.
        deterministic: whether who else is trained beside a client may change no bit.
        recall: what a job's client has kept, by name.
    """

    make_expert: Callable[[], Expert]
    gate_for: Callable[[int], Gate]
    settings: TrainSettings
    store: SampleStore
    population: Population
    seed: int
    sharers: int = 1
    deterministic: bool = False
    recall: Callable[[ClientJob], Mapping[str, NDArray[np.float32]]] = lambda job: {}

    @property
    def device(self) -> torch.device:
        """Where this node computes."""
        return self.store.device

    def stream(self, job: ClientJob) -> torch.Generator:
        """Returns the client's own stream of this round: its shuffles, and what its augmentation draws."""
        return torch_stream(self.seed, "train", "round", job.round_num, "client", job.client_id)

    def lots(self, job: ClientJob, num_experts: int) -> Lots:
        """Returns what falls by lot for the job's gate, for this client and round."""
        draws = self.gate_for(num_experts).draws if job.gate else 0
        return Lots(derive_seed(self.seed, "gate", "round", job.round_num, "client", job.client_id), num_experts, draws)

    @cached_property
    def expert_draws(self) -> int:
        """How many numbers each sample comes with for the experts (`Expert.draws`)."""
        return self.make_expert().draws

    def expert_lots(self, job: ClientJob) -> Tensor:
        """Returns what falls by lot for the experts, for each sample of this client in this round, on the device."""
        seed = derive_seed(self.seed, "expert", "round", job.round_num, "client", job.client_id)
        return Lots(seed, 0, self.expert_draws).numbers(len(self.samples_of(job))).to(self.device)

    def epochs(self, job: ClientJob) -> int:
        """Returns the client's passes over its samples."""
        return job.epochs or self.settings.epochs

    def samples_of(self, job: ClientJob) -> NDArray[np.int64]:
        """Returns the ids of the samples that the job trains on."""
        return job.samples(self.population.shards)

    def validation_of(self, job: ClientJob) -> Tensor:
        """Returns which of the job's samples are its client's validation split: the same in every round."""
        stream = torch_stream(self.seed, "validation", "client", job.client_id)
        return validation_split(len(self.samples_of(job)), stream).to(self.device)

    def start_of(self, job: ClientJob, state: ServerState, expert: Expert, gate: Gate | None) -> Start:
        """Returns where the job's client starts from; the modules are asked for shapes only."""
        return start_of(job, state, self.recall(job) if job.remembers else {}, expert, gate)

    def finished(
        self,
        job: ClientJob,
        start: Start,
        trained: Sequence[NDArray[np.float32]],
        modules: tuple[Expert, Gate | None],
        metrics: Mapping[str, float],
    ) -> ClientUpdate:
        """Returns what the client gives back, and what it keeps.

        Args:
            job: the client's.
            start: where it started.
            trained: what came out: a vector for each expert, then the gate's.
            modules: any expert and the gate, for their shapes.
            metrics: what it saw.
        """
        count = len(self.samples_of(job))
        outcome, sent, gate = Outcome({}, {}), trained[-1], modules[1]
        if job.canonical and gate is not None:
            sent = canonical(gate, sent)
        # What stands in for an expert is tried out: what the client keeps, and tells beside, is the expert's business.
        if (job.private or job.memory or job.shared) and not job.instead:
            steps = num_steps(count, self.epochs(job), self.settings.batch_size)
            outcome = kept_after(job, load_terms(job.objective), start, trained, *modules, self.settings, steps)
        return ClientUpdate(
            client_id=job.client_id,
            num_examples=count,
            weight=count if job.weighting == "examples" else 1,
            gate=sent if job.gate and job.sends and not job.instead else None,
            experts=dict(zip(job.experts, trained, strict=False)) if job.sends and not job.instead else {},
            metrics=metrics,
            changes=dict(outcome.changes) | stood_in(job, trained) if job.sends else {},
            kept=outcome.kept,
        )

    def log_prior_C(self, job: ClientJob) -> Tensor | None:
        """Returns the log of the client's label prior, or `None` without logit adjustment.

        A label that the client lacks gets a finite floor: its logit is pushed out of the softmax without becoming NaN.
        """
        return self.log_prior_of(self.samples_of(job)) if self.settings.logit_adjustment else None

    def log_prior_of(self, ids: NDArray[np.int64]) -> Tensor | None:
        """Returns the log of the label prior of these samples, or `None` without logit adjustment."""
        if not self.settings.logit_adjustment:
            return None
        prior_C: NDArray[np.float64] = self.population.label_prior(ids)
        return torch.from_numpy(np.log(np.maximum(prior_C, 1e-8))).float().to(self.device)


def stood_in(job: ClientJob, trained: Sequence[NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
    """Returns what came out of the vectors that stood in for experts, by the name that it is sent under."""
    found = dict(zip(job.experts, trained, strict=False))
    return {f"extra/{name}": found[expert_id] for expert_id, name in job.instead.items()}
