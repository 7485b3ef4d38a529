"""What a fresh client got: experts, predictions, and what they cost.

Shapes: B samples, M experts in the pool, K held ones, C classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Personalized", "Way"]

MIXTURE, COMMON = -1, -2  # who answered, where no single expert did: all held ones, the common expert


@dataclass(frozen=True)
class Way:
    """One way to predict.

    Attributes:
        predictions: int64 label of each sample (B,).
        probabilities: float64 (B, C), rows sum to 1.
    """

    predictions: NDArray[np.int64]
    probabilities: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Personalized:
    """A client served.

    Attributes:
        who: the client, in words.
        method: the method that served it.
        round_num: the round of the checkpoint.
        class_names: one a label.
        images: uint8 (B, channels, height, width), as the experts saw them.
        labels: int64 (B,), or `None` where they are not known. They count right answers, and choose nothing.
        experts: the K experts that it was given, best first.
        scores: its score of every expert (M,).
        routed_by: `"gate"`, `"confidence"`, or `"none"` where nothing ranks.
        routing: each sample's softmax over the pool (B, M): the gate's probabilities, or the confidence's.
        weights: by the gate's rule over the K held experts (B, K), in the order of `experts`.
        chosen: int64 (B,): the expert that answered each sample; `MIXTURE` (-1) where the mixture of all held ones did,
            `COMMON` (-2) where the common expert did, on which some gates fall back.
        ways: figure -> predictions: `plain` and `em` (the common expert alone, without and with prior correction),
            `zero_shot` (the method's own way), `mixture`, and `..._em`; with `evaluate.doubt` `guarded` and
            `..._guarded` too.
        bytes: `common` (once; 0 where the method needs none), `gate`, `experts`, and `pool`: all experts,
            without the gate, not fetched.
        seconds: measured: `embed`, `rank`, `fetch`, `predict`, `correct` (the prior correction).
        notes: what a person must know.
        files: each image's path in the folder or archive that it came from; empty where it came from none.
    """

    who: str
    method: str
    round_num: int
    class_names: tuple[str, ...]
    images: NDArray[np.uint8]
    labels: NDArray[np.int64] | None
    experts: tuple[int, ...]
    scores: NDArray[np.float64]
    routed_by: str
    routing: NDArray[np.float64]
    weights: NDArray[np.float64]
    chosen: NDArray[np.int64]
    ways: Mapping[str, Way]
    bytes: Mapping[str, int]
    seconds: Mapping[str, float]
    notes: tuple[str, ...]
    files: tuple[str, ...] = ()

    def name_of(self, row: int) -> str:
        """Returns what an image is called: its file, else its number."""
        return self.files[row] if self.files else str(row)

    @property
    def predictions(self) -> NDArray[np.int64]:
        """The method's own answers (B,)."""
        return self.ways["zero_shot"].predictions

    @property
    def probabilities(self) -> NDArray[np.float64]:
        """The method's own probabilities (B, C)."""
        return self.ways["zero_shot"].probabilities

    @property
    def accuracies(self) -> dict[str, float]:
        """Figure -> share of right answers; empty where labels are not known."""
        if self.labels is None:
            return {}
        return {name: float(np.mean(way.predictions == self.labels)) for name, way in self.ways.items()}
