"""A stack of clients at work: their copies, their optimiser, and one step of all of them at once."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import cache
from itertools import compress

import torch
from torch import Tensor

from fedmoe.federation.heads import gate_of
from fedmoe.federation.job import ClientJob
from fedmoe.federation.state import ServerState
from fedmoe.moe.expert import Expert
from fedmoe.moe.gate import Gate
from fedmoe.moe.vectors import Vector
from fedmoe.training.keeping import Start, is_trained, moves
from fedmoe.training.objective import load_objective
from fedmoe.training.optimiser import carry_over, make_optimiser
from fedmoe.training.precision import computing_in
from fedmoe.training.program import GIVEN, Memory, Program
from fedmoe.training.stack import Stack, pool_of
from fedmoe.training.stack_samples import StepBatch
from fedmoe.training.trainer import Workplace

__all__ = ["Buffers", "RunningStack"]

REGISTER = 16  # float32 values of the widest that a CPU has


@cache
def compiler() -> Callable[..., tuple[Tensor, Sequence[Tensor]]]:
    """Returns `Program.gradients`, compiled at its first call for any number of clients; again for each kind of job.

    Torch gives up after 8 variants of a function, and the kinds of a run may be more.
    """
    import torch._dynamo.config as dynamo  # takes a second: only where it is wanted

    dynamo.recompile_limit = max(64, dynamo.recompile_limit)
    # What is left over at the end of a loop is rounded in another way than the rest, and whose values those are depends
    # on who else is in the stack: hence no compiling in deterministic mode. In parts (where the graph breaks) it gains
    # nothing.
    return torch.compile(Program.gradients, dynamic=True, fullgraph=True)


def in_one_pass(leaf: Tensor) -> bool:
    """Returns whether a stacked tensor may be stepped by one of torch's fused optimisers.

    On a CPU these round the last values of each thread's share in another way where they do not fill a register
    (torch 2.15), and whose values those are depends on who else is in the stack. So only where nothing is left over,
    however many rows there are: with one thread, and pairs of rows (there is an even number) that fill registers.
    """
    pair = 2 * leaf[0].numel()
    return leaf.device.type == "cuda" or (torch.get_num_threads() == 1 and pair % REGISTER == 0)


class Buffers:
    """The resident memory of one worker's stacks: the experts' copies and the gate's, by shape."""

    def __init__(self, place: Workplace) -> None:
        self.place = place
        self.expert = place.make_expert().train()
        for part in self.expert.modules():  # a counter of batches is no part of the vector, and nobody reads it
            if isinstance(part, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)) and part.momentum is not None:
                part.num_batches_tracked = None
        self.stacks: dict[tuple[str, int], Stack] = {}

    def experts(self, width: int, copies: int) -> Stack:
        """Returns room for the experts of `width` clients, `copies` each."""
        return self._room("expert", self.expert, width, copies)

    def gates(self, gate: Gate, width: int) -> Stack:
        """Returns room for the gate's copies of `width` clients."""
        return self._room(f"gate of {gate.spec.num_experts}", gate, width, 1)

    def free(self) -> None:
        """Gives the memory back."""
        self.stacks.clear()
        if self.place.device.type == "cuda":
            torch.cuda.empty_cache()

    def _room(self, name: str, module: torch.nn.Module, width: int, copies: int) -> Stack:
        key = (name, copies)
        if key not in self.stacks or self.stacks[key].width < width:
            self.stacks.pop(key, None)  # the old one's memory first
            self.stacks[key] = Stack(module, width, copies, self.place.device)
        return self.stacks[key]


class RunningStack:
    """Clients of one kind of job between what they received and what they give back.

    Args:
        place: what it works with.
        buffers: where the copies lie.
        jobs: one kind's; the last ones are repeated to fill `width`.
        state: what the server sent.
        width: rows, at least one a job.
        compiled: whether steps are compiled by torch, which takes seconds for each kind of job.
    """

    def __init__(
        self,
        place: Workplace,
        buffers: Buffers,
        jobs: Sequence[ClientJob],
        state: ServerState,
        width: int,
        compiled: bool = False,
    ) -> None:
        self.compiled = compiled
        state = state.with_instead(jobs[0].instead)  # all of a kind have the same
        filled = [*jobs, *([jobs[-1]] * (width - len(jobs)))]
        self.job = jobs[0]
        held = sorted({expert_id for job in jobs for expert_id in job.experts})
        row_of = {expert_id: row for row, expert_id in enumerate(held)}
        heads = sorted({job.head for job in jobs})
        device, gate = place.device, place.gate_for(len(state.experts)).train() if jobs[0].gate else None
        self.starts = [place.start_of(job, state, buffers.expert, gate) for job in jobs]
        starts = [*self.starts, *([self.starts[-1]] * (width - len(jobs)))]
        self.place = place
        self.turns = jobs[0].steps
        self.program = Program(
            objective=load_objective(self.turns[0].objective),
            expert=buffers.expert,
            gate=gate,
            num_experts=len(state.experts),
            expert_pool=pool_of(buffers.expert, [state.experts[i] for i in held], device),
            gate_pool={} if gate is None else pool_of(gate, given_gates(state, heads), device),
            shared=shared_pools(jobs, self.starts, held, buffers.expert, gate, device),
            span=place.store.span,
        )
        others = (load_objective(turn.objective) for turn in self.turns[1:])
        self.programs = [self.program, *(replace(self.program, objective=objective) for objective in others)]
        self.own = {
            "expert_ids": torch.tensor([job.experts for job in filled], device=device),
            "rows": torch.tensor([[row_of[i] for i in job.experts] for job in filled], device=device),
            "gate_rows": torch.tensor([[heads.index(job.head)] for job in filled], device=device),
        }
        priors = [place.log_prior_C(job) for job in filled]
        if priors[0] is not None:
            self.own["log_prior"] = torch.stack([prior for prior in priors if prior is not None])
        self.experts = buffers.experts(width, len(jobs[0].experts))
        self.experts.fill(self.program.expert_pool, self.own["rows"])
        self.gates = None if gate is None else buffers.gates(gate, width)
        if self.gates is not None:
            self.gates.fill(self.program.gate_pool, self.own["gate_rows"])
        if jobs[0].private:
            self.experts.set([vector for start in starts for vector in start.experts])
            if self.gates is not None:
                self.gates.set([start.gate for start in starts if start.gate is not None])
        self.memory = stacked_memory(starts, len(jobs[0].experts), buffers.expert, gate, device)
        for name in jobs[0].given:
            self.own[GIVEN + name] = torch.tensor([job.given[name] for job in filled], device=device)
        self.names = frozenset(p.name for p in self.experts.parts if is_trained(p, jobs[0], gate=False))
        of_gate = () if self.gates is None else self.gates.parts
        self.gate_names = frozenset(p.name for p in of_gate if is_trained(p, jobs[0], gate=True))
        self.moving = [  # of each turn: whether each trained tensor of the experts, and then of the gate, moves in it
            [moves(p, turn.trains, gate=False) for p in self.experts.parts if p.name in self.names]
            + [moves(p, turn.trains, gate=True) for p in of_gate if p.name in self.gate_names]
            for turn in self.turns
        ]
        self.optimiser: torch.optim.Optimizer | None = None
        self.narrow(width)

    def narrow(self, rows: int) -> None:
        """Goes on with the first `rows` rows only."""
        self.rows = rows
        self.trained = self.experts.trained(rows, self.names)
        self.gate_trained = {} if self.gates is None else self.gates.trained(rows, self.gate_names)
        experts, gate = list(self.trained.values()), list(self.gate_trained.values())
        shrink = (self.job.shrink, self.job.shrink_gate)
        optimiser = make_optimiser(self.place.settings, [experts], gate, in_one_pass, copies=2, shrink=shrink)
        if self.optimiser is not None:
            carry_over(self.optimiser, optimiser, rows)
        self.optimiser = optimiser

    def step(self, batch: StepBatch) -> Tensor:
        """Makes one step of every row in each turn, and returns the losses of the first."""
        first_N: Tensor | None = None
        for number, turn in enumerate(self.turns):
            losses_N = self._turn(number, batch.counting(turn.part))
            first_N = losses_N if first_N is None else first_N
        assert first_N is not None
        return first_N

    def _turn(self, number: int, batch: StepBatch) -> Tensor:
        leaves = [*self.trained.values(), *self.gate_trained.values()]
        if self.compiled:
            losses_N, found = self._compiled_gradients(number, batch)
            gradients = list(compress(found, self.moving[number]))
        else:
            losses_N = self.losses(batch, turn=number)
            gradients = self.gradients(losses_N, number)
        for leaf in leaves:
            leaf.grad = None  # what does not move in this turn is no business of the optimiser's
        for leaf, gradient in zip(compress(leaves, self.moving[number]), gradients, strict=True):
            # A gradient from vmap may be a permuted view, and a fused step does not look at strides (torch 2.15).
            leaf.grad = gradient.contiguous() if in_one_pass(leaf) else gradient
        if self.optimiser is not None:
            self.optimiser.step()
        return losses_N.detach()

    def gradients(self, losses_N: Tensor, number: int) -> list[Tensor]:
        """Returns the gradients of the losses by what moves in the turn."""
        leaves = [*self.trained.values(), *self.gate_trained.values()]
        moved = list(compress(leaves, self.moving[number]))
        return list(torch.autograd.grad(losses_N.sum(), moved, materialize_grads=True)) if moved else []

    def losses(self, batch: StepBatch, precision: str = "", turn: int = 0) -> Tensor:
        """Returns the loss of every row, ready for a gradient; in the settings' precision unless another is given."""
        fixed, gate_fixed = self._fixed()
        with computing_in(precision or self.place.settings.precision, self.place.device):
            return self.programs[turn].losses_N(
                (self.trained, fixed), (self.gate_trained, gate_fixed), self._inputs(batch), self._memory()
            )

    def _compiled_gradients(self, number: int, batch: StepBatch) -> tuple[Tensor, Sequence[Tensor]]:
        trained = {name: leaf.detach() for name, leaf in self.trained.items()}
        gate_trained = {name: leaf.detach() for name, leaf in self.gate_trained.items()}
        fixed, gate_fixed = self._fixed()
        with computing_in(self.place.settings.precision, self.place.device):
            return compiler()(
                self.programs[number], (trained, fixed), (gate_trained, gate_fixed), self._inputs(batch), self._memory()
            )

    def _fixed(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        of_gate = {} if self.gates is None else self.gates.fixed(self.rows, self.gate_names)
        return self.experts.fixed(self.rows, self.names), of_gate

    def _memory(self) -> Memory:
        def first(tensors: dict[str, Tensor], names: Collection[str]) -> dict[str, Tensor]:
            return {name: tensors[name][: self.rows] for name in tensors if name in names}

        return {
            name: (first(experts, self.names), first(gate, self.gate_names))
            for name, (experts, gate) in self.memory.items()
        }

    def _inputs(self, batch: StepBatch) -> dict[str, Tensor]:
        own = {name: value[: self.rows] for name, value in self.own.items()}
        return own | {name: value for name, value in vars(batch).items() if value is not None}

    def vectors(self, first: int, last: int) -> tuple[Tensor, Tensor | None]:
        """Returns the rows first .. last-1 as vectors, copied: of experts (rows, K, P), of the gate (rows, 1, P)."""
        return self.experts.vectors(first, last), None if self.gates is None else self.gates.vectors(first, last)


def given_gates(state: ServerState, heads: Sequence[int]) -> list[Vector]:
    """Returns the gates that clients get: those of these heads, or, for -1, the gate."""
    return [gate for head in heads if (gate := gate_of(state, head)) is not None]


def stacked_memory(
    starts: Sequence[Start], copies: int, expert: Expert, gate: Gate | None, device: torch.device
) -> Memory:
    """Returns what the clients of a stack have kept for their objective: rows x copies, by tensor."""

    def tensors(module: torch.nn.Module, vectors: Sequence[Vector], copies: int) -> dict[str, Tensor]:
        pool = pool_of(module, vectors, device)
        return {name: rows.view(len(starts), copies, *rows.shape[1:]) for name, rows in pool.items()}

    return {
        name: (
            tensors(expert, [vector for start in starts for vector in start.memory[name][:copies]], copies),
            {} if gate is None else tensors(gate, [start.memory[name][copies] for start in starts], 1),
        )
        for name in starts[0].memory
    }


def shared_pools(
    jobs: Sequence[ClientJob],
    starts: Sequence[Start],
    held: Sequence[int],
    expert: Expert,
    gate: Gate | None,
    device: torch.device,
) -> dict[str, tuple[dict[str, Tensor], dict[str, Tensor]]]:
    """Returns the server's vectors that the objective sees, by tensor: of the held experts a row each, of the gate."""
    pools = {}
    for name in jobs[0].shared:
        by_expert = {
            expert_id: vector
            for job, start in zip(jobs, starts, strict=True)
            for expert_id, vector in zip(job.experts, start.shared[name], strict=False)
        }
        of_gate = {} if gate is None else pool_of(gate, [starts[0].shared[name][-1]], device)
        pools[name] = (pool_of(expert, [by_expert[i] for i in held], device), of_gate)
    return pools
