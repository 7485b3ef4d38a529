"""What vectors with many zeros cost, and the server's step that makes them."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmoe.federation.job import ClientJob
from fedmoe.federation.state import ServerState

__all__ = ["NonZeros", "nonzeros_of", "shrunk", "sparse_bytes"]

VALUE_BYTES = PLACE_BYTES = 4  # a float32 value; where it stands, as a whole number
BITS = 8


def sparse_bytes(size: int, nonzeros: int) -> int:
    """Returns the bytes of a float32 vector whose zeros are left out, by the cheapest of three encodings.

    The values that are not 0 with a bit for each place that says whether one stands there, or each with the number of
    its place; or all values as they are, which is never exceeded. What tells the three apart is not counted, as no
    message's head is.

    >>> sparse_bytes(1000, 1000), sparse_bytes(1000, 100), sparse_bytes(1000, 2), sparse_bytes(1000, 0)
    (4000, 525, 16, 0)
    """
    by_bitmap = nonzeros * VALUE_BYTES + -(-size // BITS)
    by_place = nonzeros * (VALUE_BYTES + PLACE_BYTES)
    return min(by_bitmap, by_place, size * VALUE_BYTES)


@dataclass(frozen=True)
class NonZeros:
    """How many values of a round's vectors are not 0.

    Attributes:
        sent: by name (`gate`, `expert/3`): of what the server sends.
        returned: client -> the same of what it sends back; who is missing counts as dense.
    """

    sent: Mapping[str, int]
    returned: Mapping[int, Mapping[str, int]] = field(default_factory=dict)

    def down(self, part: str, size: int) -> int:
        """Returns the bytes of a part of `size` values that the server sends to one client."""
        return sparse_bytes(size, self.sent.get(part, size))

    def up(self, client_id: int, part: str, size: int) -> int:
        """Returns the bytes of a part that the client sends back."""
        return sparse_bytes(size, self.returned.get(client_id, {}).get(part, size))


def nonzeros_of(
    jobs: Iterable[ClientJob], state: ServerState, rows: Sequence[Mapping[str, Any]] = ()
) -> NonZeros | None:
    """Returns what a round's vectors count as, or `None` where no job makes zeros: then all travel dense.

    Args:
        jobs: the round's.
        state: what the server sends of.
        rows: of the clients that completed, with their own counts (`nonzeros`).
    """
    if not any(job.makes_zeros for job in jobs):
        return None
    sent = {name: int(np.count_nonzero(array)) for name, array in state.to_arrays().items()}
    return NonZeros(sent, {int(row["client_id"]): row["nonzeros"] for row in rows if "nonzeros" in row})


def shrunk(
    state: ServerState, names: Collection[str], weights: Mapping[str, Sequence[slice]], by: Mapping[str, float]
) -> ServerState:
    """Returns the state with the weights of some parts moved towards 0; those that are nearer become 0.

    Args:
        state: the server's.
        names: the parts (`gate`, `expert/3`); the others keep their bytes.
        weights: `"expert"` and `"gate"`: where weights lie in such a vector; the rest of it stays as it is.
        by: `"expert"` and `"gate"`: by how much, at least 0.
    """

    def moved(name: str, kind: str, vector: NDArray[np.float32]) -> NDArray[np.float32]:
        if name not in names or by[kind] <= 0:
            return vector
        after, step = vector.copy(), np.float32(by[kind])
        for where in weights[kind]:
            after[where] = np.sign(vector[where]) * np.maximum(np.abs(vector[where]) - step, 0)
        return after

    gate = None if state.gate is None else moved("gate", "gate", state.gate)
    experts = tuple(moved(f"expert/{i}", "expert", vector) for i, vector in enumerate(state.experts))
    return replace(state, gate=gate, experts=experts)
