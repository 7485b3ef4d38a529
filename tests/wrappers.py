"""Wrappers for tests: strategies that work over another one."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from fedmoe.federation.job import ClientJob
from fedmoe.flower.wrapper import Wrapper


class Unchanged(Wrapper):
    """What it works over, as it is."""


@dataclass
class Longer(Wrapper):
    """What it works over, with more passes over the clients' samples."""

    epochs: int = 2

    def jobs(self, round_num: int, client_id: int, held: tuple[int, ...]) -> Sequence[ClientJob]:
        own = self.inner.jobs(round_num, client_id, held)
        return [replace(job, epochs=self.epochs) for job in own]
