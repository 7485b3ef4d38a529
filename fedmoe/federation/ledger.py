"""Bytes that the protocol sends, counted per client as if each sat on its own device.

What the simulator itself moves between processes is another, smaller thing: a node gets each expert once.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from fedmoe.federation.job import ClientJob
from fedmoe.federation.sparse import NonZeros

__all__ = ["FLOAT_BYTES", "INDEX_BYTES", "Ledger", "RoundBytes", "fedjets_bytes"]

FLOAT_BYTES = 4
INDEX_BYTES = 4  # one expert index in a client's answer to the ranking query: eps in seeds' formula
REPORT_BYTES = 12  # of one expert in a job that reports: samples, how many were right, and by the mixture


@dataclass(frozen=True, kw_only=True)
class RoundBytes:
    """Bytes of one round.

    Attributes:
        down: server to clients.
        up: clients to server.
        by_expert: down plus up of each expert's weights.
    """

    down: int
    up: int
    by_expert: tuple[int, ...]

    def __add__(self, other: "RoundBytes") -> "RoundBytes":
        """Returns both together."""
        by_expert = tuple(one + two for one, two in zip(self.by_expert, other.by_expert, strict=True))
        return RoundBytes(down=self.down + other.down, up=self.up + other.up, by_expert=by_expert)


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """The sizes that traffic is made of, in float32 values.

    Attributes:
        gate_size: values of the gate (P_r); 0 without a gate.
        expert_size: values of one expert (P_e).
        num_experts: M.
        common_size: values of the common expert (P_c); 0 when clients do not need it.
    """

    gate_size: int
    expert_size: int
    num_experts: int
    common_size: int

    def once(self, num_clients: int) -> int:
        """Returns the bytes of giving every client the common expert, once."""
        return num_clients * self.common_size * FLOAT_BYTES

    def copies(self, counts: Sequence[int]) -> RoundBytes:
        """Returns the bytes of sending so many copies of each expert down."""
        by_expert = tuple(count * self.expert_size * FLOAT_BYTES for count in counts)
        return RoundBytes(down=sum(by_expert), up=0, by_expert=by_expert)

    def round(
        self,
        jobs: Sequence[ClientJob],
        asked: Collection[int],
        ranked: Collection[int],
        indices: int,
        ranks_by: str = "gate",
        nonzeros: NonZeros | None = None,
    ) -> RoundBytes:
        """Returns the bytes of one round; that private parts start from what the server gave once is left out.

        Args:
            jobs: the work handed out; a client whose update was lost still got and sent its share.
            asked: clients that got the ranking query; one that failed to answer has no job, but got the gate.
            ranked: clients that answered it.
            indices: expert indices in one answer to the ranking query.
            ranks_by: `"gate"`: the gate sent for the ranking is the one that is trained, and counts once; `"loss"` or
                `"likelihood"`: the whole pool goes down for it, and what the client trains of it need not come again.
            nonzeros: of the weights that travel without their zeros; what is shared beside them is dense. `None`: all
                travels dense.
        """
        sizes = {"gate": self.gate_size} | {f"expert/{i}": self.expert_size for i in range(self.num_experts)}
        dense = {name: size * FLOAT_BYTES for name, size in sizes.items()}
        weights = dense if nonzeros is None else {name: nonzeros.down(name, size) for name, size in sizes.items()}
        down, up = 0, len(ranked) * indices * INDEX_BYTES
        # client, expert (-1: the gate), name of what is shared ("": the weights): what two jobs need comes once
        received: set[tuple[int, int, str]] = set()
        by_expert = [0] * self.num_experts
        if ranks_by in ("loss", "likelihood"):
            by_expert = [len(asked) * weights[f"expert/{i}"] for i in range(self.num_experts)]
            down += sum(by_expert)
            received = {(client, expert_id, "") for client in asked for expert_id in range(self.num_experts)}
        elif ranks_by == "gate":
            down += len(set(asked) - {job.client_id for job in jobs}) * weights["gate"]
        for job in jobs:
            up += job.question.size * FLOAT_BYTES if job.question else 0
            for part in [*job.experts, *([-1] if job.gate else [])]:
                own = f"expert/{part}" if part >= 0 else "gate"
                size = dense[own]
                needed = {(job.client_id, part, name) for name in job.shared}
                stands_in = job.instead.get(part, "")
                needed |= {(job.client_id, part, stands_in)} if job.receives(gate=part < 0) else set()
                out = sum(size if name else weights[own] for _, _, name in needed - received)
                back = size if nonzeros is None or stands_in else nonzeros.up(job.client_id, own, sizes[own])
                sends = job.sends and not job.question and (not job.instead or part in job.instead)
                back = back + size * len(job.shared) if sends else 0
                received |= needed
                down, up = down + out, up + back
                if part >= 0:
                    by_expert[part] += out + back
            up += REPORT_BYTES * len(job.instead or job.experts) if job.reports else 0
        return RoundBytes(down=down, up=up, by_expert=tuple(by_expert))


def fedjets_bytes(ledger: Ledger, *, normal: int, anchors: int, top_k: int) -> int:
    """Returns down plus up of one FedJETs round by the closed formula.

    `2 N P_r + 2 (N_c k + N_a) P_e + N_c k eps` with N = N_c + N_a: arXiv 2306.08586, appendix K, an anchor counted as
    the one expert that it gets.
    """
    clients = normal + anchors
    values = 2 * clients * ledger.gate_size + 2 * (normal * top_k + anchors) * ledger.expert_size
    return values * FLOAT_BYTES + normal * top_k * INDEX_BYTES
