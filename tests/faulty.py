"""Things that go wrong on purpose, by reference: `strategy.name="tests.faulty:Faulty"`."""

from dataclasses import dataclass, replace

from torch import Tensor

from fedmoe.federation.job import ClientJob, Term
from fedmoe.training.objective import Batch, LocalModel
from strategies.fedjets import FedJETs


@dataclass(frozen=True)
class Fault:
    """A term of the loss that fails."""

    kind: str

    def __call__(self, model: LocalModel, batch: Batch) -> Tensor:
        if self.kind == "raise":
            raise ArithmeticError("this client cannot count")
        return model.trained[0].sum() * float(self.kind)


@dataclass
class Faulty(FedJETs):
    """FedJETs with clients that raise (`kind="raise"`) or whose weights become NaN or huge (`"nan"`, `"1e12"`)."""

    victims: str = ""
    kind: str = "raise"
    round_num: int = 2

    def job(self, round_num: int, client_id: int, held: tuple[int, ...]) -> ClientJob:
        job = super().job(round_num, client_id, held)
        if str(client_id) not in self.victims.split(",") or round_num != self.round_num:
            return job
        return replace(job, objective=(*job.objective, Term("tests.faulty:Fault", {"kind": self.kind})))
