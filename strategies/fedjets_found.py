"""FedJETs without given anchors: those clients serve as anchors whose unlabelled embeddings are the purest."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from fedmoe.errors import RoundError, SettingsError
from fedmoe.federation.assignment import Assignment, Rankings
from fedmoe.federation.grouping import ClientPrint
from fedmoe.federation.sampling import census_of, sample_clients
from fedmoe.federation.state import ServerState
from fedmoe.federation.vertices import purest
from fedmoe.seeding import numpy_stream
from fedmoe.settings import Settings
from strategies.fedjets import FedJETs

__all__ = ["FedJETsFound"]

ANCHORS = "anchors"


@dataclass
class FedJETsFound(FedJETs):
    """FedJETs (arXiv 2306.08586) that finds its M anchors itself, by embeddings alone; no label is read for it.

    fedmoe's own. In the first round clients send the mean and the covariance of their embeddings. A client that holds
    two label groups (or domains) has a mean between those of clients that hold one: the M clients at the corners of the
    simplex that the means fill, in axes in which samples vary alike, are the purest (`vertices`), and become the
    anchors, an expert each. Clients with less than half of the median of samples are left out, for chance alone moves
    their means. From the second round on it is FedJETs; in the first, clients train experts by lot. What the run calls
    anchors (`clients.deal-anchors`) is not looked at.

    Attributes:
        census: clients that are asked for their embeddings, by lot; 0: all. Anchors are found among them.
        init: where the experts start: `random`, `common`, or empty: as `experts.init` says.
    """

    census: int = 200
    init: str = ""

    ranks_by: ClassVar[str] = "embedding"
    traits: ClassVar[frozenset[str]] = frozenset({"varies"})

    def __post_init__(self) -> None:
        super().__post_init__()
        # whether the round at hand is the one that finds the anchors
        self._finding = False
        if self.census < 0:
            raise SettingsError(f"strategy.fedjets_found.census must be 0 (all) or more, got {self.census}")

    def check(self, settings: Settings) -> None:
        """Refuses a census that is smaller than the pool, and no anchors at all."""
        if not settings.clients.anchors_per_round:
            raise SettingsError(
                "fedjets_found finds anchors to train them, got clients.anchors-per-round=0; hint: 1 or more, or "
                "strategy.name='fedjets'"
            )
        asked = min(self.census or settings.clients.num, settings.clients.num)
        if asked < settings.experts.num:
            raise SettingsError(
                f"fedjets_found needs an anchor for each of the {settings.experts.num} experts among those that it "
                f"asks, got {asked}; hint: strategy.fedjets_found.census, clients.num"
            )

    def anchors(self) -> Mapping[int, int]:
        """Returns the clients that were found, and the expert of each; nobody in the round that finds them."""
        found = () if self._finding else self.state.extras.get(ANCHORS, ())
        return {int(client): expert for expert, client in enumerate(found)}

    def query(self) -> str:
        """Returns `embedding` in the first round, and `gate` from then on."""
        return self.ranks_by if self._finding else "gate"

    def sample(self, round_num: int, clients: Sequence[int], rng: np.random.Generator) -> Sequence[int]:
        """Returns anchors and normal clients; in the first round, `per-round` clients by lot."""
        self._finding = ANCHORS not in self.state.extras
        if not self._finding:
            return super().sample(round_num, clients, rng)
        return sample_clients(clients, self.federation.settings.clients.per_round, rng)

    def ranked(self, clients: Sequence[int]) -> Sequence[int]:
        """Returns the normal clients; in the first round, those of the census, be they in the round or not."""
        if not self._finding:
            return super().ranked(clients)
        stream = numpy_stream(self.federation.settings.seed, "fedjets_found", "census")
        return census_of(self.federation.population.training, self.census, stream)

    def begin(self, round_num: int, state: ServerState) -> ServerState:
        """Returns the state with the anchors, which the first round finds."""
        if not self._finding:
            return state
        if len(self.rankings) < self.num_experts:
            raise RoundError(
                f"fedjets_found needs the embeddings of {self.num_experts} clients at least, got {len(self.rankings)}; "
                "hint: the first failure of the ranking query stands in the log"
            )
        found = purest({c: ClientPrint.from_numbers(self.rankings[c]) for c in sorted(self.rankings)}, self.num_experts)
        return replace(state, extras={**state.extras, ANCHORS: np.array(found, dtype=np.int64)})

    def assign(self, round_num: int, rankings: Rankings, rng: np.random.Generator) -> Assignment:
        """Returns an anchor's own expert, and a normal client's K best; in the first round, experts by lot.

        As many clients as later are anchors in a round get one expert then, the others K: a round's bytes are the same.
        """
        if not self._finding:
            return super().assign(round_num, rankings, rng)
        settings = self.federation.settings
        lots = {client: tuple(map(int, rng.permutation(self.num_experts))) for client in sorted(rankings)}
        single = set(sorted(lots, key=lots.__getitem__)[: settings.clients.anchors_per_round])
        return {client: own[: 1 if client in single else settings.experts.top_k] for client, own in lots.items()}

    def ranking_indices(self) -> int:
        """Returns K, the indices that a client answers with; in the first round, the numbers of its print."""
        return max(map(len, self.rankings.values())) if self._finding else super().ranking_indices()

    def ranking_record(self) -> Mapping[str, Any]:
        """Returns `anchors`, the client of each expert, and, from the second round on, `rankings`."""
        rankings = {} if self._finding else super().ranking_record()
        return {"anchors": [int(client) for client in self.state.extras[ANCHORS]], **rankings}
