"""FedJETs: experts and gate trained jointly, the gate on the embedding of a frozen common expert."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedmoe.errors import SettingsError
from fedmoe.evaluation.ranking import AGGREGATIONS
from fedmoe.evaluation.serving import Serving
from fedmoe.federation.assignment import Assignment, Rankings, top_k
from fedmoe.federation.job import ClientJob, Term
from fedmoe.federation.sampling import sample_clients
from fedmoe.flower.strategy import ExpertStrategy
from fedmoe.settings import Settings
from fedmoe.training.objective import load_terms

__all__ = ["FedJETs"]


@dataclass
class FedJETs(ExpertStrategy):
    """FedJETs (arXiv 2306.08586, section 3).

    Each round some anchors, which train their own expert and teach the gate to recognise their data, and some normal
    clients, which train the K experts that the gate ranks highest for them, jointly with the gate.

    The paper leaves these choices open:

    Attributes:
        aggregation: how a client's scores are aggregated over its samples: `mean-probability`, `mean-logit`, `vote`.
        renormalise: whether a normal client's gate weights sum to 1 over its K experts, or come from the whole pool.
        weighting: weight of a client in the averages: `uniform`, or `examples`.
        output: what is mixed, and what the gate's gradient passes through: `probability` or `logit`.
        anchor_gate_labels: an anchor's gate also learns from its labels (`Anchor.gate_labels`).
        balance: a further term of a normal client's loss that spreads its samples over the experts that it holds, an
            objective by name (`importance`, `load`, `switch`); empty: none, as in the paper.
        balance_weight: its factor, at least 0.
        init: where the experts start: `random`, `common`, or empty: as `experts.init` says.
    """

    aggregation: str = "mean-probability"
    renormalise: bool = True
    weighting: str = "uniform"
    output: str = "probability"
    anchor_gate_labels: bool = False
    balance: str = ""
    balance_weight: float = 0.01
    init: str = ""

    has_gate: ClassVar[bool] = True
    ranks_by: ClassVar[str] = "gate"

    def __post_init__(self) -> None:
        if self.balance_weight < 0:
            raise SettingsError(f"strategy.fedjets.balance-weight must be at least 0, got {self.balance_weight}")
        choices = {
            "aggregation": AGGREGATIONS,
            "weighting": ("uniform", "examples"),
            "output": ("probability", "logit"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise SettingsError(
                    f"strategy.fedjets.{name} must be one of {', '.join(allowed)}, got '{getattr(self, name)}'"
                )

    def check(self, settings: Settings) -> None:
        """Refuses anchors that nobody deals, and a term of balance that there is not."""
        super().check(settings)
        try:
            load_terms(self.terms_of_balance())
        except TypeError as error:
            raise SettingsError(
                f"strategy.fedjets.balance must name an objective that takes a weight, got '{self.balance}'; hint: "
                "importance, load or switch"
            ) from error
        if settings.clients.anchors_per_round and not settings.clients.deal_anchors:
            raise SettingsError(
                f"fedjets trains the anchors that it is told, got clients.anchors-per-round="
                f"{settings.clients.anchors_per_round} and clients.deal-anchors=false; hint: "
                "strategy.name='fedjets_found' finds anchors itself"
            )

    def pool_size(self, settings: Settings) -> int:
        """Returns M."""
        return settings.experts.num

    def anchors(self) -> Mapping[int, int]:
        """Returns the anchors, and the expert of each: clients that are known to hold one label group, or domain."""
        return self.federation.population.anchors

    def sample(self, round_num: int, clients: Sequence[int], rng: np.random.Generator) -> Sequence[int]:
        """Returns `anchors-per-round` anchors and, to make up `per-round`, normal clients, both by lot."""
        settings, known = self.federation.settings.clients, self.anchors()
        others = [client for client in clients if client not in known]
        anchors = sample_clients(sorted(known), settings.anchors_per_round, rng)
        return (*anchors, *sample_clients(others, settings.per_round - settings.anchors_per_round, rng))

    def ranked(self, clients: Sequence[int]) -> Sequence[int]:
        """Returns the normal clients: an anchor knows its expert."""
        known = self.anchors()
        return [client for client in clients if client not in known]

    def assign(self, round_num: int, rankings: Rankings, rng: np.random.Generator) -> Assignment:
        """Returns an anchor's own expert, and a normal client's K best."""
        anchors, k = self.anchors(), self.federation.settings.experts.top_k
        return {
            client: (anchors[client],) if client in anchors else top_k(scores, k, rng)
            for client, scores in rankings.items()
        }

    def job(self, round_num: int, client_id: int, held: tuple[int, ...]) -> ClientJob:
        """Returns an anchor's two separate losses, or a normal client's joint loss."""
        mixture = (Term("mixture", {"output": self.output, "renormalise": self.renormalise}), *self.terms_of_balance())
        anchor = (Term("anchor", {"gate_labels": self.anchor_gate_labels}),)
        return ClientJob(
            client_id=client_id,
            round_num=round_num,
            experts=held,
            objective=anchor if client_id in self.anchors() else mixture,
            gate=True,
            weighting=self.weighting,
        )

    def terms_of_balance(self) -> tuple[Term, ...]:
        """Returns the term that spreads samples over experts, if there is one."""
        return (Term(self.balance, {"weight": self.balance_weight}),) if self.balance else ()

    def serving(self) -> Serving:
        """Returns: the gate's K best experts for the client, the best of those for each sample."""
        k = self.federation.settings.experts.top_k
        return Serving(top_k=k, aggregation=self.aggregation, output=self.output)

    def ranking_indices(self) -> int:
        """Returns K: a client answers with the indices of its K best experts."""
        return self.federation.settings.experts.top_k
