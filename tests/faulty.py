"""Things that go wrong on purpose, by reference: `strategy.name="tests.faulty:Faulty"`."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedmoe.federation.job import ClientJob, Term
from fedmoe.training.objective import Batch, LocalModel
from strategies.fedjets import FedJETs


@dataclass(frozen=True)
class Fault:
    """A term of the loss that fails on some clients, in one round, and is nothing on all others."""

    victims: str
    kind: str
    round_num: int

    def __call__(self, model: LocalModel, batch: Batch, job: ClientJob) -> Tensor:
        if str(job.client_id) not in self.victims.split(",") or job.round_num != self.round_num:
            return torch.zeros(())
        if self.kind == "raise":
            raise ArithmeticError(f"client {job.client_id} cannot count")
        return model.parameters()[0].sum() * float(self.kind)


@dataclass
class Faulty(FedJETs):
    """FedJETs with clients that raise (`kind="raise"`) or whose weights become NaN or huge (`"nan"`, `"1e12"`)."""

    victims: str = ""
    kind: str = "raise"
    round_num: int = 2

    def job(self, round_num: int, client_id: int, held: tuple[int, ...]) -> ClientJob:
        job = super().job(round_num, client_id, held)
        fault = {"victims": self.victims, "kind": self.kind, "round_num": self.round_num}
        return replace(job, objective=(*job.objective, Term("tests.faulty:Fault", fault)))
