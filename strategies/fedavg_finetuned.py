"""FedAvg with fine-tuning: one model, averaged; a client makes it its own before it uses it."""

from dataclasses import dataclass

from fedmoe.errors import SettingsError
from fedmoe.evaluation.serving import Serving
from fedmoe.flower.strategy import ExpertStrategy

__all__ = ["FedAvgFinetuned"]


@dataclass
class FedAvgFinetuned(ExpertStrategy):
    """FedAvg, whose model each training client fine-tunes on its own samples (Yu et al., arXiv 2002.04758).

    Training is FedAvg's. The figures of training clients (`evaluate.seen`) are those of the model that is served, after
    some more epochs of the client's own SGD with the settings' own rate. It is trained anew at every test, for nothing
    is sent or kept: bytes are FedAvg's. An unseen client has no labels to train on: the global model serves it, so its
    figures are those of FedAvg, and without `evaluate.seen` all of them are. Of the paper's ways to adapt it is the
    first, fine-tuning of all layers.

    Attributes:
        epochs: passes over the client's samples before it is tested, at least 1.
        init: where the model starts: `common`, `random`, or empty: as `experts.init` says.
    """

    epochs: int = 1
    init: str = "common"

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise SettingsError(f"strategy.fedavg_finetuned.epochs must be at least 1, got {self.epochs}")

    def serving(self) -> Serving:
        """Returns: by the model; a training client by what it makes of it."""
        return Serving(top_k=1, fine_tuning=self.epochs)
