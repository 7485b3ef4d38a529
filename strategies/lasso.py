"""An L1 penalty on experts and gate over any strategy: most weights become 0, and zeros are not sent."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from fedmoe.errors import SettingsError
from fedmoe.federation.job import ClientJob
from fedmoe.federation.sparse import shrunk
from fedmoe.federation.state import ServerState
from fedmoe.flower.replies import Replies
from fedmoe.flower.wrapper import Wrapper

__all__ = ["Lasso"]


@dataclass
class Lasso(Wrapper):
    """The strategy `over`, its clients' objectives with `strength (|gate|_1 + |experts|_1)` (arXiv 2009.10622).

    The penalty is the paper's, lambda our `strength`; it takes the proximal step, so that zeros are exact: clients
    after each step of their optimiser (`ClientJob.shrink`), the server once after it has merged, each weight by
    learning rate times strength, on the server times `server`. A client's zeros differ from its neighbour's, so an
    average has as many values as all of them together; the server's step takes back those that few clients wanted.
    Biases and scales of norms are left alone. Whole weights travel, not what has changed of them: their zeros are left
    out, and the ledger counts what is left (`fedmoe.federation.sparse`), both ways.

    Attributes:
        strength: lambda, at least 0; 0 is the strategy `over`, byte for byte.
        gate_strength: the gate's lambda as a multiple of it; the paper's is 1.
        server: how many of a client's steps the server's one is worth, at least 0.
    """

    strength: float = 0.01
    gate_strength: float = 0.1
    server: float = 1.0

    refuses: ClassVar[Mapping[str, str]] = {
        "asks": "its clients train nothing, so there is nothing to shrink",
        "alike": "its experts have tensors in common, and only those that were trained are shrunk",
    }

    def __post_init__(self) -> None:
        for name in ("strength", "gate_strength", "server"):
            if getattr(self, name) < 0:
                key = name.replace("_", "-")
                raise SettingsError(f"strategy.lasso.{key} must be at least 0, got {getattr(self, name)}")

    def jobs(self, round_num: int, client_id: int, held: tuple[int, ...]) -> Sequence[ClientJob]:
        """Returns the client's jobs, with the penalty."""
        jobs = self.inner.jobs(round_num, client_id, held)
        return [replace(job, shrink=self.strength, shrink_gate=self.strength * self.gate_strength) for job in jobs]

    def merge(self, round_num: int, state: ServerState, updates: Replies) -> ServerState:
        """Returns the next state, the parts that somebody trained moved towards 0."""
        merged = self.inner.merge(round_num, state, updates)
        train, layout = self.federation.settings.train, self.federation.layout
        step = self.strength * self.server
        weights = {
            kind: [slice(part.offset, part.offset + part.size) for part in parts if part.is_weight]
            for kind, parts in layout.items()
        }
        held = {name for name, weight in updates.sums.weights.items() if weight > 0}
        by = {"expert": step * train.learning_rate, "gate": step * self.gate_strength * train.gate_learning_rate}
        return shrunk(merged, held, weights, by) if step > 0 else merged
