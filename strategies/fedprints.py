"""FedPrints: experts for groups of clients that look alike once their labels are taken out; no label finds them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fedmoe.errors import RoundError, SettingsError
from fedmoe.evaluation.serving import Serving
from fedmoe.federation.assignment import Assignment, Rankings
from fedmoe.federation.grouping import ClientPrint, find_groups
from fedmoe.federation.job import ClientJob
from fedmoe.federation.sampling import census_of
from fedmoe.federation.state import ServerState
from fedmoe.flower.strategy import ExpertStrategy
from fedmoe.seeding import derive_seed, numpy_stream
from fedmoe.settings import Settings
from fedmoe.training.looks import VERSION

__all__ = ["FedPrints"]

GROUPS, RATIOS, LOOKS = "groups", "ratios", "looks"
UNKNOWN = -1


@dataclass
class FedPrints(ExpertStrategy):
    """One expert for each group of clients with like fingerprints, and one for all where fingerprints are alike.

    fedmoe's own; the idea, its equations and what each part brings: docs/fedprints.md. Before the first round clients
    send the mean and the covariance of their fingerprints: of what frozen random convolutions see in their images
    beyond the common expert's belief in the labels. Where their means differ, in some directions, by plainly more than
    in all others (`gap`), the server groups them, and each client trains its group's expert. Where they differ by
    labels alone there is one group, and this is FedAvg. An unseen client gets the expert of the group that its
    unlabelled samples fit best.

    Anchors are clients like any other, so `clients.per-round` may be as many as FedJETs' traffic pays for; it is meant
    to go with `train.logit-adjustment`, `evaluate.ema` and label-prior correction.

    Attributes:
        threshold: a direction in which the ratio of the variance between clients to that within them is smaller does
            not tell groups apart; above 0.
        gap: by how many times a ratio has to be larger than the next one to be the last that tells groups apart, above
            1; ratios above 1 and `threshold` do without a gap.
        census: clients that are asked for their fingerprints before the first round, by lot; 0: all. The others are
            asked when their turn to train comes.
        init: where the experts start: `common`, `random`, or empty: as `experts.init` says.
    """

    threshold: float = 0.1
    gap: float = 4.0
    census: int = 200
    init: str = "common"

    has_gate: ClassVar[bool] = True
    gate: ClassVar[str] = "discriminant"
    ranks_by: ClassVar[str] = "fingerprint"
    served_by: ClassVar[tuple[str, ...]] = (LOOKS,)

    def __post_init__(self) -> None:
        if self.threshold <= 0 or self.gap <= 1 or self.census < 0 or self.census == 1:
            raise SettingsError(
                "strategy.fedprints needs threshold > 0, gap > 1 and a census of 0 (all) or at least 2 clients, "
                f"got {self.threshold}, {self.gap} and {self.census}"
            )

    def check(self, settings: Settings) -> None:
        """Refuses a single client, which differs from nobody."""
        if settings.clients.num < 2:
            raise SettingsError(
                f"fedprints groups clients, so clients.num must be at least 2, got {settings.clients.num}"
            )

    def pool_size(self, settings: Settings) -> int:
        """Returns M."""
        return settings.experts.num

    def traffic(self) -> int:
        """Returns 2: one expert goes to a client and back."""
        return 2

    def ranked(self, clients: Sequence[int]) -> Sequence[int]:
        """Returns the clients of the census before the first round, and always those whose group is not known."""
        known = self.state.extras.get(GROUPS)
        if known is not None:
            return [client for client in clients if known[client] == UNKNOWN]
        stream = numpy_stream(self.federation.settings.seed, "fedprints", "census")
        asked = census_of(self.federation.population.training, self.census, stream)
        return asked if len(asked) == self.federation.population.num_training else sorted({*clients, *asked})

    def begin(self, round_num: int, state: ServerState) -> ServerState:
        """Returns the state with groups and gate, which the first round finds, and a group for each newcomer."""
        prints = {client: ClientPrint.from_numbers(numbers) for client, numbers in self.rankings.items()}
        if GROUPS not in state.extras:
            return self._grouped(state, prints)
        self._check_looks(state)
        groups = state.extras[GROUPS].copy()
        for client, own in prints.items():
            groups[client] = int(np.argmax(self._scores(own)))
        return replace(state, extras={**state.extras, GROUPS: groups})

    def assign(self, round_num: int, rankings: Rankings, rng: np.random.Generator) -> Assignment:
        """Returns each client's own group's expert."""
        groups = self.state.extras[GROUPS]
        return {client: (int(groups[client]),) for client in rankings}

    def job(self, round_num: int, client_id: int, held: tuple[int, ...]) -> ClientJob:
        """Returns the cross-entropy of its group's expert; the gate stays on the server."""
        return replace(super().job(round_num, client_id, held), gate=False)

    def serving(self) -> Serving:
        """Returns: the expert of the group that the client's samples fit best."""
        return Serving(top_k=1, aggregation="mean-logit")

    def ranking_indices(self) -> int:
        """Returns how many numbers a client sends of its fingerprints."""
        return ClientPrint.values_of(self._width())

    def ranking_record(self) -> Mapping[str, Any]:
        """Returns how many groups were found and the ratios that told; the numbers of the prints are left out."""
        groups, ratios = self.state.extras[GROUPS], self.state.extras[RATIOS]
        found = len(np.unique(groups[groups != UNKNOWN]))
        return {GROUPS: found, RATIOS: [round(float(ratio), 6) for ratio in ratios]}

    def _grouped(self, state: ServerState, prints: Mapping[int, ClientPrint]) -> ServerState:
        if len(prints) < 2:
            raise RoundError(
                f"fedprints groups clients by their fingerprints, and needs those of two at least, got {len(prints)}; "
                "hint: the first failure of the ranking query stands in the log"
            )
        seed = derive_seed(self.federation.settings.seed, "fedprints", "groups")
        found = find_groups(prints, self.num_experts, self.threshold, self.gap, seed)
        groups = np.full(self.federation.population.num_training, UNKNOWN, dtype=np.int64)
        for client, group in found.of.items():
            groups[client] = group
        gate = np.concatenate([found.weight_MD.ravel(), found.bias_M]).astype(np.float32)
        found_by = {RATIOS: np.array(found.ratios), LOOKS: np.array([VERSION])}
        return replace(state, gate=gate, extras={**state.extras, GROUPS: groups, **found_by})

    def _check_looks(self, state: ServerState) -> None:
        """Refuses groups that were found by other features, whose discriminants mean nothing here."""
        begun = state.extras.get(LOOKS)
        if begun is None or int(begun[0]) != VERSION:
            raise RoundError(
                "a run of fedprints must go on with the features that its groups were found by, got others: "
                f"version {None if begun is None else int(begun[0])}, now {VERSION}; hint: fedmoe of the version that "
                "began it, or a new run"
            )

    def _scores(self, own: ClientPrint) -> NDArray[np.float64]:
        """Returns the gate's score of each group."""
        assert self.state.gate is not None
        split = self.state.gate.size - self.num_experts
        weight_MD = self.state.gate[:split].reshape(self.num_experts, -1)
        scores_M: NDArray[np.float64] = weight_MD @ own.mean_D + self.state.gate[split:]
        return scores_M

    def _width(self) -> int:
        assert self.state.gate is not None
        return self.state.gate.size // self.num_experts - 1
