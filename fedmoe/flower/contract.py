"""The contract of a strategy: all that one may say of itself and override; the round calls it, and is written once."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from fedmoe.evaluation.serving import Serving
from fedmoe.federation.assignment import Assignment, Rankings
from fedmoe.federation.job import ClientJob, Term
from fedmoe.federation.merging import merge_sums
from fedmoe.federation.sampling import matched_count, sample_clients
from fedmoe.federation.state import ServerState
from fedmoe.flower.federation import Federation
from fedmoe.flower.replies import Replies
from fedmoe.settings import Settings

__all__ = ["Contract"]


class Contract:
    """What an `ExpertStrategy` says of itself, and may override.

    Out of the box it is federated averaging of one model. A subclass says what it needs by four class attributes and
    overrides any of `sample`, `assign`, `job`, `merge`. Arguments are the fields of a dataclass; they come from the
    settings' table `strategy.NAME`. A whole strategy, two experts dealt out by lot and trained with FedAvg's loss:

    >>> from dataclasses import dataclass
    >>> from fedmoe.flower.strategy import ExpertStrategy
    >>> @dataclass
    ... class ByLot(ExpertStrategy):
    ...     pool: int = 2
    ...     def pool_size(self, settings):
    ...         return self.pool
    ...     def assign(self, round_num, rankings, rng):
    ...         return {client: (int(rng.integers(self.pool)),) for client in rankings}
    >>> strategy = ByLot(pool=3)
    >>> strategy.assign(1, {7: ()}, np.random.default_rng(0))
    {7: (2,)}
    >>> strategy.job(1, 7, (2,)).experts
    (2,)

    Attributes:
        has_gate: whether it trains and serves with a gate.
        gate: the gate's name; empty: as the settings' `gate.name` says.
        ranks_by: what clients rank experts by: `"gate"`, `"loss"` (IFCA), `"likelihood"` (their shares of the experts,
            as FedEM's), `"fingerprint"` or `"embedding"` (their scores are the numbers of their `ClientPrint`, of the
            one or the other), `"mean"` (their scores are the mean of their embeddings), or `"none"`.
        served_by: names of extras without which its gate means nothing: a checkpoint that lacks one is not served.
        merges: what comes back: `"sums"` over a node's clients, or every client's `"updates"` (median, clustering).
        traits: what a wrapper may not be able to work over: `"asks"` (clients answer questions and train nothing),
            `"varies"` (what they rank by is not the same in all rounds), `"alike"` (experts have tensors in common),
            `"replaces"` (an expert's weights jump), `"ahead"` (what clients train was sent a round ago).
        init: where the pool starts: `"random"`, `"common"`, or `""`: as the settings' `experts.init` says.
        federation: what it is bound to, from `bind` on.
        num_experts: M, from `bind` on.
        num_rounds: of the whole run, from `bind` on.
        rankings: of the round at hand: client -> its score of every expert.
        state: that the round at hand starts from.
    """

    has_gate: ClassVar[bool] = False
    gate: ClassVar[str] = ""
    ranks_by: ClassVar[str] = "none"
    served_by: ClassVar[tuple[str, ...]] = ()
    merges: ClassVar[str] = "sums"
    traits: ClassVar[frozenset[str]] = frozenset()
    init: str = ""
    federation: Federation
    num_experts: int
    num_rounds: int
    rankings: Rankings
    state: ServerState

    def pool_size(self, settings: Settings) -> int:
        """Returns M, the number of experts in the pool. By default 1: one dense model."""
        return 1

    def traits_with(self, settings: Settings) -> frozenset[str]:
        """Returns what a wrapper may not be able to work over, with these settings: by default `traits`.

        One that has a trait with some settings only leaves it out with the others.
        """
        return self.traits

    def check(self, settings: Settings) -> None:
        """Refuses settings that the strategy cannot work with, by a `SettingsError`, before anything runs."""

    def sample(self, round_num: int, clients: Sequence[int], rng: np.random.Generator) -> Sequence[int]:
        """Returns the clients of a round: by default `clients_a_round` of all training clients, by lot."""
        return sample_clients(clients, self.clients_a_round(len(clients)), rng)

    def clients_a_round(self, available: int) -> int:
        """Returns `clients.per-round`, or with `clients.matched-bytes` as many as FedJETs' bytes pay for."""
        settings = self.federation.settings
        if not settings.clients.matched_bytes:
            return settings.clients.per_round
        return matched_count(settings.clients, settings.experts.top_k, self.traffic(), available)

    def traffic(self) -> int:
        """Returns how many experts a client gets in a round plus how many it sends: by default twice the pool."""
        return 2 * self.num_experts

    def ranked(self, clients: Sequence[int]) -> Sequence[int]:
        """Returns those of a round's clients that are asked to rank the experts: by default all, if anything ranks."""
        return clients if self.query() != "none" else ()

    def ranked_meanwhile(self, round_num: int, clients: Sequence[int]) -> Sequence[int]:
        """Returns clients that rank while the round trains, by what it starts from: by default none.

        They need not be of the round; nobody waits for them. Their answers come with the training's
        (`Replies.rankings`).
        """
        return ()

    def query(self) -> str:
        """Returns what clients rank by in the round at hand, where it is not the same in all: by default `ranks_by`."""
        return self.ranks_by

    def begin(self, round_num: int, state: ServerState) -> ServerState:
        """Returns the state that the round starts from, once `rankings` are there. By default: the last one's."""
        return state

    def assign(self, round_num: int, rankings: Rankings, rng: np.random.Generator) -> Assignment:
        """Returns who holds which experts, by default all hold all; a client that was not ranked has no scores."""
        return {client: tuple(range(self.num_experts)) for client in rankings}

    def job(self, round_num: int, client_id: int, held: tuple[int, ...]) -> ClientJob:
        """Returns the client's work. By default: the cross-entropy of its first expert."""
        return ClientJob(
            client_id=client_id,
            round_num=round_num,
            experts=held,
            objective=(Term("dense"),),
            gate=self.has_gate,
            weighting="examples",
        )

    def jobs(self, round_num: int, client_id: int, held: tuple[int, ...]) -> Sequence[ClientJob]:
        """Returns the client's jobs, to be done one after another: by default one, `job`."""
        return (self.job(round_num, client_id, held),)

    def merge(self, round_num: int, state: ServerState, updates: Replies) -> ServerState:
        """Returns the next state. By default: each part is averaged over those who held it."""
        return merge_sums(state, updates.sums)

    def serving(self) -> Serving:
        """Returns how an unseen client is served. By default: by the whole pool."""
        return Serving(top_k=self.num_experts)

    def head_of(self, client_id: int) -> int:
        """Returns which of the server's heads (`fedmoe.federation.heads`) is the client's own when it is tested.

        By default -1: none is known to be. Then it is the nearest one, where the state has heads, and the gate if not.
        """
        return -1

    def ranking_indices(self) -> int:
        """Returns how many expert indices a client sends in answer to the ranking query, for the ledger."""
        return self.num_experts

    def ranking_record(self) -> Mapping[str, Any]:
        """Returns what the round's line tells of the ranking. By default: `rankings`, each client's scores."""
        return {
            "rankings": {str(c): [round(score, 6) for score in own] for c, own in sorted(self.rankings.items())},
        }
