"""TaskMoE: experts for all, a gate head for each client or task; an unseen client takes the nearest one's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fedmoe.data.contracts import is_over_domains
from fedmoe.errors import SettingsError
from fedmoe.federation.heads import HEADS, KEYS
from fedmoe.federation.job import ClientJob
from fedmoe.federation.merging import merge_sums
from fedmoe.federation.state import ServerState
from fedmoe.flower.replies import Replies
from fedmoe.references import load_plugin
from fedmoe.settings import Settings
from strategies.fedmix import FedMix

__all__ = ["TaskMoE"]

MEANS = "means"  # of the clients' embeddings, (clients, D), NaN where a client has not been asked
OWNERS = ("client", "task")


@dataclass
class TaskMoE(FedMix):
    """Task-aware gating (Gupta et al., arXiv 2204.07689): FedMix with a gate head for each task, experts for all.

    `sum_m softmax(G_t(e))_m f(x; W_m)`: our t, their task; our G_t, the head that is task t's own, on the frozen common
    expert's embedding e, the trunk that all share. A task is a client, or what a domain is. Every client holds the
    whole pool; experts are averaged over the round's clients, a head over those of its task only. The server keeps the
    heads, and for each the mean embedding of those who trained it, which a client sends once: an unseen client gets the
    head whose mean is nearest to its own. Where tasks differ in what labels mean and not in what inputs look like,
    nearest is no better than by lot.

    Attributes:
        heads: whose the heads are: each `client`'s, or each `task`'s; then clients tell their task, their domain.
        told: unseen clients tell their task, too, and get its head; only with `heads='task'`.
        output: what is mixed: `probability` or `logit`.
        init: where the experts start: `random`, `common`, or empty: as `experts.init` says.
    """

    heads: str = "client"
    told: bool = False

    ranks_by: ClassVar[str] = "mean"
    merges: ClassVar[str] = "updates"

    def __post_init__(self) -> None:
        if self.heads not in OWNERS:
            raise SettingsError(f"strategy.taskmoe.heads must be one of {', '.join(OWNERS)}, got '{self.heads}'")
        if self.told and self.heads != "task":
            raise SettingsError("strategy.taskmoe.told needs heads='task': a client that is new has no head of its own")
        if self.output not in ("probability", "logit"):
            raise SettingsError(f"strategy.taskmoe.output must be probability or logit, got '{self.output}'")

    def check(self, settings: Settings) -> None:
        """Refuses heads of tasks where clients live in no domains."""
        by_domain = is_over_domains(load_plugin("partition", "fedmoe.data.partitions", settings.clients.partition))
        if self.heads == "task" and not by_domain:
            raise SettingsError(
                f"strategy.taskmoe.heads='task' takes a client's domain for its task, and there are none with "
                f"clients.partition='{settings.clients.partition}'; hint: heads='client', or clients.partition='domain'"
            )

    def task_of(self, client_id: int) -> int:
        """Returns the row of the client's head: its own number, or its domain's."""
        population = self.federation.population
        return client_id if self.heads == "client" else int(population.domain_N[population.shards[client_id][0]])

    def ranked(self, clients: Sequence[int]) -> Sequence[int]:
        """Returns the round's clients that have not yet told the mean of their embeddings."""
        means = self.state.extras.get(MEANS)
        return clients if means is None else [client for client in clients if np.isnan(means[client]).any()]

    def begin(self, round_num: int, state: ServerState) -> ServerState:
        """Returns the state with heads that all begin as the gate, and with the means that clients have told."""
        if not self.rankings and MEANS not in state.extras:
            return state
        assert state.gate is not None
        population = self.federation.population
        owners = population.num_training if self.heads == "client" else len(population.domains)
        width = len(next(iter(self.rankings.values()), ()))
        begun = {
            MEANS: np.full((population.num_training, width), np.nan, dtype=np.float32),
            KEYS: np.full((owners, width), np.nan, dtype=np.float32),
            HEADS: np.tile(state.gate, (owners, 1)),
        }
        extras = {**begun, **state.extras}
        means_SD: NDArray[Any] = extras[MEANS].copy()
        for client, mean in self.rankings.items():
            means_SD[client] = mean
        return replace(state, extras={**extras, MEANS: means_SD})

    def job(self, round_num: int, client_id: int, held: tuple[int, ...]) -> ClientJob:
        """Returns the joint loss of the client's head and all experts."""
        return replace(super().job(round_num, client_id, held), head=self.task_of(client_id))

    def merge(self, round_num: int, state: ServerState, updates: Replies) -> ServerState:
        """Returns the state with experts averaged over all, each head over its task; the gate is the mean of heads.

        A head that nobody has trained yet follows the gate, so that a task begins with what the others have learnt.
        """
        merged = merge_sums(state, updates.sums)
        if merged.gate is None or HEADS not in state.extras:
            return merged
        heads_HP, keys_HD = state.extras[HEADS].copy(), state.extras[KEYS].copy()
        by_task: dict[int, list[tuple[int, NDArray[np.float32]]]] = {}
        for update in updates.updates:
            if update.gate is not None:
                by_task.setdefault(self.task_of(update.client_id), []).append((update.weight, update.gate))
        for task, own in by_task.items():
            weights, gates = zip(*own, strict=True)
            heads_HP[task] = np.average(np.stack(gates).astype(np.float64), axis=0, weights=weights)
            keys_HD[task] = self._key_of(task, state.extras[MEANS])
        heads_HP[np.isnan(keys_HD).any(axis=1)] = merged.gate
        return replace(merged, extras={**merged.extras, HEADS: heads_HP, KEYS: keys_HD})

    def head_of(self, client_id: int) -> int:
        """Returns a training client's head; an unseen client's only if it tells its task."""
        seen = client_id < self.federation.population.num_training
        return self.task_of(client_id) if seen or self.told else -1

    def ranking_indices(self) -> int:
        """Returns how many numbers a client that is asked sends: the mean of its embeddings."""
        return max(map(len, self.rankings.values()), default=0)

    def ranking_record(self) -> Mapping[str, Any]:
        """Returns nothing: what clients tell is not a ranking."""
        return {}

    def _key_of(self, task: int, means_SD: NDArray[Any]) -> NDArray[np.float32]:
        """Returns the mean of the means that clients of this task have told."""
        known = np.flatnonzero(~np.isnan(means_SD).any(axis=1)).tolist()
        told = [client for client in known if self.task_of(client) == task]
        mean_D: NDArray[np.float32] = means_SD[told].mean(axis=0)
        return mean_D
