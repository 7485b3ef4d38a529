"""One training step of many clients as one program: the objective of one client, mapped over a stack of them.

Shapes: N clients, K held experts, B samples of a client's batch, M experts in the pool, D width of the gate's input.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from fedmoe.moe.expert import Expert
from fedmoe.moe.gate import Gate
from fedmoe.training.attack import Span
from fedmoe.training.objective import Batch, LocalModel, Objective

__all__ = ["GIVEN", "Memory", "Program"]

GIVEN = "given/"  # of the names of a client's own numbers

Tensors = dict[str, Tensor]
Pair = tuple[Tensors, Tensors]  # torch's compiler cannot read `tuple[...]` within what it compiles
Memory = dict[str, tuple[Tensors, Tensors]]
"""By name: a client's vectors as tensors of the experts (K in front) and of the gate (1 in front)."""


@dataclass(frozen=True, kw_only=True)
class Program:
    """What is the same for all clients of a stack.

    Attributes:
        objective: of one client.
        expert: the module that all experts share.
        gate: the gate's module, or `None`.
        num_experts: M.
        expert_pool: the experts as received, by name, one row each.
        gate_pool: the gate as received, by name, one row.
        shared: the server's vectors that the objective sees: of the experts and the gate, rows as in the pools.
        span: what the inputs' pixels may be.
    """

    objective: Objective
    expert: Expert
    gate: Gate | None
    num_experts: int
    expert_pool: Mapping[str, Tensor]
    gate_pool: Mapping[str, Tensor]
    shared: Mapping[str, tuple[Mapping[str, Tensor], Mapping[str, Tensor]]] = field(default_factory=dict)
    span: Span | None = None
    methods: "_Methods | None" = field(init=False)

    def __post_init__(self) -> None:
        # here, for torch does not compile what makes a module
        object.__setattr__(self, "methods", None if self.gate is None else _Methods(self.gate))

    def losses_N(
        self, experts: tuple[Tensors, Tensors], gate: tuple[Tensors, Tensors], own: Tensors, memory: Memory
    ) -> Tensor:
        """Returns each client's loss.

        Args:
            experts: trained and other tensors of the experts' copies, N x K in front.
            gate: likewise of the gate's copies, N x 1 in front.
            own: what else differs between the clients: `x` (N x B x channels x height x width), `y` (N x B), `gate`
                (N x B x D), `common` (N x B x classes, or 0), `lots` (N x B x L), `expert_ids` and `rows` (the pool's
                rows that they started from; N x K), `gate_rows` (likewise; N x 1); where they are wanted also `weight`
                (N x B), `log_prior` (N x classes) and the clients' own numbers (`given/NAME`).
            memory: what the clients have kept for the objective, N in front.
        """
        losses_N: Tensor = vmap(self._loss)(experts, gate, own, memory)
        return losses_N

    def gradients(
        self, experts: tuple[Tensors, Tensors], gate: tuple[Tensors, Tensors], own: Tensors, memory: Memory
    ) -> tuple[Tensor, list[Tensor]]:
        """Returns each client's loss, and its gradient by the trained tensors, as a function that torch can compile."""

        def loss(trained: Tensors, gate_trained: Tensors, fixed: Pair, *own: Any) -> Tensor:
            return self._loss((trained, fixed[0]), (gate_trained, fixed[1]), *own)

        mapped = vmap(grad_and_value(loss, argnums=(0, 1)))
        (by_expert, by_gate), losses_N = mapped(experts[0], gate[0], (experts[1], gate[1]), own, memory)
        return losses_N, [*by_expert.values(), *by_gate.values()]

    def _loss(
        self, experts: tuple[Tensors, Tensors], gate: tuple[Tensors, Tensors], own: Tensors, memory: Memory
    ) -> Tensor:
        """Returns the loss of one client; every tensor here is its own."""
        rows_K, gate_row_1 = own["rows"], own["gate_rows"]
        model = LocalModel(
            experts=lambda *given: self._logits_KBC(*experts, given),
            gate=None if self.methods is None else _GateCopy(self.methods, _only_copy(gate[0] | gate[1])),
            expert_ids_K=own["expert_ids"],
            num_experts=self.num_experts,
            trained=[*_by_copy(experts[0], len(rows_K)), *_only_copy(gate[0]).values()],
            start=lambda: _rows(self.expert_pool, self.gate_pool, experts[0], gate[0], rows_K, gate_row_1),
            log_prior_C=own.get("log_prior"),
            memory={
                name: [*_by_copy({key: kept[key] for key in experts[0]}, len(rows_K)), *_only_copy(of_gate).values()]
                for name, (kept, of_gate) in memory.items()
            },
            shared={name: _rows(*pools, experts[0], gate[0], rows_K, None) for name, pools in self.shared.items()},
            given={name.removeprefix(GIVEN): value for name, value in own.items() if name.startswith(GIVEN)},
            span=self.span,
        )
        batch = Batch(own["x"], own["y"], own["gate"], own.get("weight"), own["common"], own["lots"])
        return self.objective(model, batch)

    def _logits_KBC(self, trained: Tensors, fixed: Tensors, given: tuple[Tensor, ...]) -> Tensor:
        def logits_BC(trained: Tensors, fixed: Tensors) -> Tensor:
            out: Tensor = functional_call(self.expert, (trained, fixed), given)
            return out

        if len(next(iter((trained | fixed).values()))) == 1:  # one expert: one level of vmap less
            return logits_BC(_only_copy(trained), _only_copy(fixed))[None]
        logits_KBC: Tensor = vmap(logits_BC)(trained, fixed)
        return logits_KBC


def _rows(
    expert_pool: Mapping[str, Tensor],
    gate_pool: Mapping[str, Tensor],
    experts: Tensors,
    gate: Tensors,
    rows_K: Tensor,
    gate_row_1: Tensor | None,
) -> list[Tensor]:
    """Returns a client's rows of the pools, of the gate the first without a row, as a list like the trained ones."""
    received = {name: expert_pool[name].index_select(0, rows_K) for name in experts}
    of_gate = [gate_pool[n][0] if gate_row_1 is None else gate_pool[n].index_select(0, gate_row_1)[0] for n in gate]
    return [*_by_copy(received, len(rows_K)), *of_gate]


def _by_copy(tensors: Tensors, copies: int) -> list[Tensor]:
    """Returns the tensors copy after copy, as a list of modules would have its parameters."""
    return [value[k] for k in range(copies) for value in tensors.values()]


def _only_copy(tensors: Tensors) -> Tensors:
    """Returns the tensors without their axis of copies, of length 1: a view, whose backward pass costs nothing."""
    return {name: value.squeeze(0) for name, value in tensors.items()}


class _Methods(nn.Module):
    """A gate whose methods can be called functionally."""

    def __init__(self, gate: Gate) -> None:
        super().__init__()
        self.gate = gate

    def forward(self, method: str, *inputs: object) -> object:
        return getattr(self.gate, method)(*inputs)


class _GateCopy:
    """One client's gate: the shared module with the client's tensors."""

    def __init__(self, methods: _Methods, tensors: Tensors) -> None:
        self.method = methods
        self.reads, self.falls_back = methods.gate.reads, methods.gate.falls_back
        self.tensors = {f"gate.{name}": value for name, value in tensors.items()}

    def scores(self, input_BD: Tensor) -> Tensor:
        out: Tensor = functional_call(self.method, self.tensors, ("scores", input_BD))
        return out

    def weigh(self, logits_BM: Tensor, expert_ids_K: Tensor) -> Tensor:
        return self.method.gate.weigh(logits_BM, expert_ids_K)
