"""Federated expectation maximisation for a mixture of linear experts: clients send sums, and train nothing."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from fedmoe.errors import SettingsError
from fedmoe.evaluation.serving import Serving
from fedmoe.federation.expectation_maximisation import Ascent
from fedmoe.federation.job import ClientJob, Question
from fedmoe.federation.logistic_mixture import LogisticMixture, rows_of, vector_of
from fedmoe.federation.packed_sums import PackedSums, SumsShape
from fedmoe.federation.state import ServerState
from fedmoe.flower.replies import Replies
from fedmoe.flower.strategy import ExpertStrategy
from fedmoe.moe.construction import is_linear
from fedmoe.settings import Settings
from fedmoe.training.statistic import STATISTIC

__all__ = ["LogisticEM"]

SUMS, POINT, PACE, WHO = "em/sums", "em/point", "em/pace", "em/who"


@dataclass
class LogisticEM(ExpertStrategy):
    """Maximum likelihood of a softmax-gated mixture of logistic experts (arXiv 2310.14188, equation 1) by EM.

    In each round all training clients get gate and experts, and send the sums that the E-step leaves there: what they
    send is a mean over all samples, however these are split into clients. The server makes one step of the M-step
    (`Ascent`: Newton's, damped), which the next round's sums accept or take back; what is served is the last accepted
    point. There is no learning rate, and no client trains; `clients.per-round` is not looked at, for two points can be
    compared on the same samples alone. Where others answer than in the round before (a client has failed, or is back),
    or samples drift, the last accepted point is asked about again. An unseen client gets the whole mixture.

    Experts are linear (`experts.model='linear'`, on inputs, or `'head'`, on the common expert's embedding), the gate is
    `softmax` with its own arguments. Sums grow with the square of an expert's parameters.

    Attributes:
        missing: whether clients also send the missing information (Louis 1982): Newton's step on the likelihood itself.
        ridge: factor of minus half of the squared parameters, beside the log-likelihood of one sample; at least 0.
        bound: largest absolute value of a parameter.
        init: where the experts start; from one common start they could never part, so `random` by default.
    """

    missing: bool = False
    ridge: float = 0.001
    bound: float = 30.0
    init: str = "random"

    has_gate: ClassVar[bool] = True
    gate: ClassVar[str] = "softmax"
    traits: ClassVar[frozenset[str]] = frozenset({"asks"})

    def __post_init__(self) -> None:
        if self.ridge < 0 or self.bound <= 0:
            raise SettingsError(
                f"strategy.logistic_em needs ridge >= 0 and bound > 0, got {self.ridge} and {self.bound}"
            )

    def check(self, settings: Settings) -> None:
        """Refuses experts that are not linear, and a prior in the loss."""
        if not is_linear(settings.experts.model):
            raise SettingsError(
                f"logistic_em needs linear experts, got experts.model='{settings.experts.model}'; hint: "
                "experts.model='linear'"
            )
        if settings.train.logit_adjustment:
            raise SettingsError("logistic_em maximises the likelihood itself, got train.logit-adjustment=true")

    def pool_size(self, settings: Settings) -> int:
        """Returns M."""
        return settings.experts.num

    def sample(self, round_num: int, clients: Sequence[int], rng: np.random.Generator) -> Sequence[int]:
        """Returns all training clients."""
        return clients

    def begin(self, round_num: int, state: ServerState) -> ServerState:
        """Returns the state at the point that clients are asked about."""
        if round_num == self.federation.settings.clients.drift_round:  # the old sums are of other samples
            state = without_sums(state)
        return self._at(state, self._ascent(state).proposal())

    def job(self, round_num: int, client_id: int, held: tuple[int, ...]) -> ClientJob:
        """Returns the question for the client's sums."""
        asked = Question("logistic_mixture", self._shape(self.state).numbers, {"missing": self.missing})
        return replace(super().job(round_num, client_id, held), objective=(), question=asked)

    def merge(self, round_num: int, state: ServerState, updates: Replies) -> ServerState:
        """Returns the state at the last accepted point."""
        if not updates.sums.weights.get(STATISTIC):
            return state
        asked, shape = self._point(state), self._shape(state)
        who = np.array([row["client_id"] for row in updates.rows], dtype=np.int64)
        if SUMS in state.extras and not np.array_equal(who, state.extras[WHO]):
            last = self._ascent(state).point
            return without_sums(replace(self._at(state, last), extras={**state.extras, WHO: who}))
        numbers_S = updates.sums.average(STATISTIC).astype(np.float64)
        ascent = self._ascent(state).heard(asked, PackedSums(numbers_S, shape, asked.free_P(), self.ridge))
        assert isinstance(ascent.sums, PackedSums)
        own = {
            SUMS: ascent.sums.numbers_S,
            POINT: ascent.point.free_P(),
            PACE: np.array([ascent.damping, ascent.gained]),
            WHO: who,
        }
        return replace(self._at(state, ascent.point), extras={**state.extras, **own})

    def serving(self) -> Serving:
        """Returns: by the mixture of all experts."""
        return Serving(top_k=self.num_experts, answer="mixture")

    def _ascent(self, state: ServerState) -> Ascent:
        """Returns where the server stands: at the state itself, before the first round."""
        here = self._point(state)
        if SUMS not in state.extras:
            return Ascent(here, bound=self.bound)
        point_P = np.asarray(state.extras[POINT], dtype=np.float64)
        damping, gained = map(float, state.extras[PACE])
        sums = PackedSums(np.asarray(state.extras[SUMS], np.float64), self._shape(state), point_P, self.ridge)
        return Ascent(here.moved(point_P - here.free_P()), sums, damping, self.bound, gained)

    def _shape(self, state: ServerState) -> SumsShape:
        point = self._point(state)
        experts, classes, features = point.experts_MCF.shape
        return SumsShape.of(experts, classes, features, point.gate_MG.shape[1], self.missing)

    def _point(self, state: ServerState) -> LogisticMixture:
        """Returns the mixture that gate and experts are."""
        assert state.gate is not None
        classes = self.federation.population.num_classes
        return LogisticMixture(
            rows_of(state.gate, len(state.experts)), np.stack([rows_of(own, classes) for own in state.experts])
        )

    def _at(self, state: ServerState, point: LogisticMixture) -> ServerState:
        experts = tuple(vector_of(rows_CF) for rows_CF in point.experts_MCF)
        return replace(state, gate=vector_of(point.gate_MG), experts=experts)


def without_sums(state: ServerState) -> ServerState:
    """Returns the state as before a first answer: the point that it is at is asked about, whatever comes out."""
    gone = (SUMS, POINT, PACE)
    return replace(state, extras={name: array for name, array in state.extras.items() if name not in gone})
