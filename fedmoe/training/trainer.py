"""What every trainer of clients is: the same jobs in, the same updates out; and the workplace that they share."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedmoe.data.population import Population
from fedmoe.federation.job import ClientFailure, ClientJob, ClientUpdate
from fedmoe.federation.state import ServerState
from fedmoe.moe.expert import Expert
from fedmoe.moe.gate import Gate
from fedmoe.seeding import derive_seed, torch_stream
from fedmoe.settings import TrainSettings
from fedmoe.training.samples import Lots, SampleStore

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
    """

    make_expert: Callable[[], Expert]
    gate_for: Callable[[int], Gate]
    settings: TrainSettings
    store: SampleStore
    population: Population
    seed: int
    sharers: int = 1
    deterministic: bool = False

    @property
    def device(self) -> torch.device:
        """Where this node computes."""
        return self.store.device

    def stream(self, job: ClientJob) -> torch.Generator:
        """Returns the client's own stream of this round: its shuffles, and what its augmentation draws."""
        return torch_stream(self.seed, "train", "round", job.round_num, "client", job.client_id)

    def lots(self, job: ClientJob, num_experts: int) -> Lots:
        """Returns the lots that a gate which reads lots gets for this client and round."""
        return Lots(derive_seed(self.seed, "gate", "round", job.round_num, "client", job.client_id), num_experts)

    def epochs(self, job: ClientJob) -> int:
        """Returns the client's passes over its samples."""
        return job.epochs or self.settings.epochs

    def log_prior_C(self, job: ClientJob) -> Tensor | None:
        """Returns the log of the client's label prior, or `None` without logit adjustment.

        A label that the client lacks gets a finite floor: its logit is pushed out of the softmax without becoming NaN.
        """
        if not self.settings.logit_adjustment:
            return None
        prior_C: NDArray[np.float64] = self.population.label_prior(job.client_id)
        return torch.from_numpy(np.log(np.maximum(prior_C, 1e-8))).float().to(self.device)
