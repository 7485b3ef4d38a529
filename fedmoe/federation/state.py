"""The server's state: the gate and the pool as flat vectors, and whatever else a strategy keeps."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

__all__ = ["ServerState", "moving_average"]


@dataclass(frozen=True, kw_only=True)
class ServerState:
    """Everything that a round changes on the server.

    Attributes:
        gate: float32 vector of the gate, or `None` when the strategy has none.
        experts: float32 vectors of the pool, by expert id.
        extras: arrays that a strategy keeps from round to round (server momentum, say); checkpointed, and sent only to
            clients whose job names them (`ClientJob.shared`).
    """

    gate: NDArray[np.float32] | None
    experts: tuple[NDArray[np.float32], ...]
    extras: Mapping[str, NDArray[np.generic]] = field(default_factory=dict)

    def with_instead(self, instead: Mapping[int, str]) -> "ServerState":
        """Returns the state in which vectors of the extras stand in for experts.

        Args:
            instead: expert id -> its name among the extras; nothing: the state as it is.

        Raises:
            KeyError: there is no such vector.
        """
        if not instead:
            return self
        experts = list(self.experts)
        for expert_id, name in instead.items():
            experts[expert_id] = np.asarray(self.extras[name], dtype=np.float32)
        return replace(self, experts=tuple(experts))

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """Returns the state as named arrays: `gate`, `expert/0`, ..., `extra/NAME`."""
        arrays: dict[str, NDArray[np.generic]] = {} if self.gate is None else {"gate": self.gate}
        arrays |= {f"expert/{i}": expert for i, expert in enumerate(self.experts)}
        return arrays | {f"extra/{name}": array for name, array in self.extras.items()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> "ServerState":
        """Returns the state that `to_arrays` wrote.

        >>> state = ServerState(gate=None, experts=(np.ones(2, np.float32),))
        >>> ServerState.from_arrays(state.to_arrays()).experts
        (array([1., 1.], dtype=float32),)
        """
        count = sum(1 for name in arrays if name.startswith("expert/"))
        return cls(
            gate=arrays["gate"].astype(np.float32, copy=False) if "gate" in arrays else None,
            experts=tuple(arrays[f"expert/{i}"].astype(np.float32, copy=False) for i in range(count)),
            extras={n.removeprefix("extra/"): a for n, a in arrays.items() if n.startswith("extra/")},
        )


def moving_average(average: ServerState, latest: ServerState, decay: float) -> ServerState:
    """Returns `decay * average + (1 - decay) * latest` for the gate, heads and experts; other extras are the latest."""

    def blend(old: NDArray[np.float32], new: NDArray[np.float32]) -> NDArray[np.float32]:
        return (decay * old.astype(np.float64) + (1 - decay) * new.astype(np.float64)).astype(np.float32)

    gate = None if average.gate is None or latest.gate is None else blend(average.gate, latest.gate)
    experts = tuple(blend(old, new) for old, new in zip(average.experts, latest.experts, strict=True))
    heads = {
        name: blend(average.extras[name], value)  # type: ignore[arg-type]
        for name, value in latest.extras.items()
        if name == "heads" and name in average.extras
    }
    return replace(latest, gate=gate, experts=experts, extras={**latest.extras, **heads})
