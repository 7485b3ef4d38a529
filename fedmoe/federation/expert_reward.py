"""What an expert is worth to those who hold it: its reward of a round, from what they report."""

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Rewarding", "Service", "rewards_of"]


@dataclass(frozen=True)
class Service:
    """What clients tell of one expert in a round.

    Attributes:
        samples: of all clients that hold it, those that fell to it.
        right: how many of them it had right as it was received, before any of them trained it.
        mixed: how many of them the clients' mixtures had right.
        copies: clients that were given it.
        failed: how many of those gave nothing back.
    """

    samples: int = 0
    right: int = 0
    mixed: int = 0
    copies: int = 0
    failed: int = 0


@dataclass(frozen=True)
class Rewarding:
    """The weights in `R = alpha accuracy + beta synergy + gamma efficiency - delta penalty` (arXiv 2501.17903).

    The paper names the four and leaves open what they are; here, for an expert m in one round:

    - accuracy: the share of the samples that fell to it which it had right, in [0, 1].
    - synergy: how much more of them the mixture of the held experts had right than it alone, in [-1, 1].
    - efficiency: its share of the round's samples over its share of the round's copies, 1 at the most: an expert that
      is sent to many and answers little is paid for in vain.
    - penalty: the share of its holders that gave nothing back.

    Attributes:
        accuracy: alpha.
        synergy: beta.
        efficiency: gamma.
        penalty: delta.
    """

    accuracy: float = 1.0
    synergy: float = 0.1
    efficiency: float = 0.1
    penalty: float = 0.5

    def of(self, own: Service, all_samples: int, all_copies: int) -> float:
        """Returns the expert's reward; some sample fell to it.

        Args:
            own: what clients tell of it.
            all_samples: that fell to any expert in the round.
            all_copies: of any expert.
        """
        efficiency = min(1.0, own.samples / all_samples * all_copies / own.copies)
        return (
            self.accuracy * own.right / own.samples
            + self.synergy * (own.mixed - own.right) / own.samples
            + self.efficiency * efficiency
            - self.penalty * own.failed / own.copies
        )


def rewards_of(services: Mapping[int, Service], rewarding: Rewarding) -> dict[int, float]:
    """Returns the reward of each expert to which a sample fell; of the others nothing is known.

    >>> rewards_of({0: Service(10, 8, 9, 1), 1: Service(copies=1)}, Rewarding())
    {0: 0.91}
    """
    samples, copies = (sum(getattr(own, name) for own in services.values()) for name in ("samples", "copies"))
    return {i: rewarding.of(own, samples, copies) for i, own in sorted(services.items()) if own.samples}
