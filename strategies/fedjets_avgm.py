"""FedJETs with server momentum of its own for every expert and the gate."""

from dataclasses import dataclass

from strategies.fedavgm import FedAvgM
from strategies.fedjets import FedJETs

__all__ = ["FedJETsAvgM"]


@dataclass
class FedJETsAvgM(FedAvgM, FedJETs):
    """FedJETs (arXiv 2306.08586) whose experts and gate are moved by FedAvgM, each by its own momentum.

    An expert that nobody held in a round keeps its values and its momentum. Bytes and serving are FedJETs'.

    Attributes:
        init: where the experts start: `random`, `common`, or empty: as `experts.init` says.
    """

    init: str = ""

    def __post_init__(self) -> None:
        FedAvgM.__post_init__(self)
        FedJETs.__post_init__(self)
