"""FedJETs with a server optimiser of its own for every expert and the gate."""

from dataclasses import dataclass

from strategies.fedadam import FedAdam
from strategies.fedjets import FedJETs

__all__ = ["FedJETsAdam"]


@dataclass
class FedJETsAdam(FedAdam, FedJETs):
    """FedJETs (arXiv 2306.08586) whose experts and gate are moved by FedAdam, each by its own momenta and step count.

    An expert that nobody held in a round keeps its values and its momenta. Bytes and serving are FedJETs'.

    Attributes:
        init: where the experts start: `random`, `common`, or empty: as `experts.init` says.
    """

    init: str = ""

    def __post_init__(self) -> None:
        FedAdam.__post_init__(self)
        FedJETs.__post_init__(self)
