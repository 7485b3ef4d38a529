"""SCAFFOLD: control variates against client drift."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from fedmoe.errors import SettingsError
from fedmoe.federation.job import ClientJob, Term
from fedmoe.federation.merging import merge_sums
from fedmoe.federation.state import ServerState
from fedmoe.flower.replies import Replies
from fedmoe.flower.strategy import ExpertStrategy
from fedmoe.settings import Settings

__all__ = ["Scaffold"]

CONTROL = "control/expert/0"


@dataclass
class Scaffold(ExpertStrategy):
    """SCAFFOLD with option II (Karimireddy et al., arXiv 1910.06378, algorithm 1; server step size 1).

    Each client keeps a control variate, an estimate of its own gradient, on disk; the server keeps their mean over all
    clients. Twice FedAvg's bytes: the variate travels with the model, both ways. Clients count alike, as in the paper.
    An unseen client is served by the averaged model.

    Attributes:
        init: where the model starts: `common`, `random`, or empty: as `experts.init` says.
    """

    init: str = "common"

    def check(self, settings: Settings) -> None:
        """Refuses AdamW, whose steps are no multiples of gradients."""
        if settings.train.optimiser != "sgd":
            raise SettingsError(
                "scaffold corrects gradients by how far SGD has moved a model, got "
                f"train.optimiser='{settings.train.optimiser}'; hint: train.optimiser='sgd'"
            )

    def job(self, round_num: int, client_id: int, held: tuple[int, ...]) -> ClientJob:
        """Returns FedAvg's job with the correction, and what it needs."""
        plain = super().job(round_num, client_id, held)
        return replace(
            plain,
            objective=(*plain.objective, Term("control")),
            weighting="uniform",
            memory=("control",),
            shared=("control",),
        )

    def traffic(self) -> int:
        """Returns 4: the control variate goes with the model, both ways."""
        return 4

    def merge(self, round_num: int, state: ServerState, updates: Replies) -> ServerState:
        """Returns the averaged model; the server's variate moves by the mean change times the share that took part."""
        merged = merge_sums(state, updates.sums)
        took_part = updates.sums.weights.get(f"extra/{CONTROL}", 0)
        if not took_part:
            return merged
        extras: Mapping[str, np.ndarray] = state.extras
        share = took_part / self.federation.population.num_training
        change = share * updates.sums.average(f"extra/{CONTROL}").astype(np.float64)
        before = extras.get(CONTROL, np.zeros(change.size, dtype=np.float32))
        return replace(merged, extras={**extras, CONTROL: (before + change).astype(np.float32)})
