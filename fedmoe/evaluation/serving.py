"""What a strategy asks for an unseen client: how many experts, ranked and mixed in which way."""

from dataclasses import dataclass

__all__ = ["Serving"]


@dataclass(frozen=True, kw_only=True)
class Serving:
    """How a strategy serves a client that it has never seen.

    Attributes:
        top_k: experts that the client gets.
        aggregation: how the gate's scores are aggregated over its samples.
        output: how the K outputs are mixed for the `mixture` figure.
        by: what the experts are ranked by for the client and, where it has several, chosen by for each sample: the
            `"gate"`, or, for a pool without one, the experts' own `"confidence"`: minus the entropy of what each
            predicts.
        answer: what `zero_shot` tells, the method's own way to predict: each sample by its `"best"` held expert, or by
            the `"mixture"` of the held ones (which has no figure of its own then).
        common_vote: share of the common expert's probabilities in every prediction, in [0, 1); the run fills it in, as
            `evaluate.common-vote` says. `best_expert` and the expert x class accuracies have no vote.
        doubt: share of the answers that the guarded label-prior correction takes to tell nothing, in [0, 1); 0: there
            is none; the run fills it in, as `evaluate.doubt` says.
        private: what a training client has of its own, when it is tested (`ClientJob.private`).
        fine_tuning: epochs that a training client trains the one model on its own samples, when it is tested; 0: none.
        hindsight: also measure every expert on every client (costs M/K times the work): `best_expert` and the expert x
            class accuracies.
        cold_start: numbers of samples; the client is also served as if it only ever had so many (`cold_start.py`).
    """

    top_k: int
    aggregation: str = "mean-probability"
    output: str = "probability"
    by: str = "gate"
    answer: str = "best"
    common_vote: float = 0.0
    doubt: float = 0.0
    private: tuple[str, ...] = ()
    fine_tuning: int = 0
    hindsight: bool = False
    cold_start: tuple[int, ...] = ()
