"""One FedJETs client in plain torch (arXiv 2306.08586, section 3), as a person without fedmoe would write it.

No cache: the common expert runs over the client's samples each time that their embeddings are needed.
Shapes: B samples, D embedding width, M experts in the pool, K held experts, C classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, log_softmax, nll_loss

from benchmarks.networks import Network, build_gate, build_network
from benchmarks.sides.epoch import shuffled
from benchmarks.workloads import Work

__all__ = ["FedJETsClient", "State", "Update", "averaged", "best_experts", "copied"]

State = dict[str, Tensor]


@dataclass(frozen=True)
class Update:
    """What a client gives back.

    Attributes:
        gate: its trained gate.
        experts: expert id -> the trained expert.
        loss: mean over its steps.
    """

    gate: State
    experts: Mapping[int, State]
    loss: float


@dataclass(frozen=True)
class Modules:
    """The modules of one process, which every client's weights are copied into."""

    common: Network
    gate: nn.Module
    experts: tuple[Network, ...]


@lru_cache(maxsize=1)
def modules(work: Work) -> Modules:
    """Returns this process's modules; the common expert is the same in all processes, and frozen."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        common = build_network(work).eval().requires_grad_(False)
    experts = tuple(build_network(work) for _ in range(work.top_k))
    return Modules(common, build_gate(work, common.width), experts)


@dataclass(frozen=True)
class FedJETsClient:
    """A client and its samples, in memory."""

    work: Work
    x: Tensor
    y: Tensor

    def ranking(self, gate: State) -> list[float]:
        """Returns M scores: the mean of the gate's softmax over the client's samples."""
        resident = modules(self.work)
        resident.gate.load_state_dict(gate)
        with torch.no_grad():
            scores_BM = resident.gate(resident.common.embed(self.x))
            return torch.softmax(scores_BM, dim=1).mean(dim=0).tolist()

    def train(self, held: Mapping[int, State], gate: State, *, anchor: bool) -> Update:
        """Returns the update after one epoch: an anchor's two losses apart, a normal client's joint one.

        Args:
            held: weights of the held experts by id, best first.
            gate: its weights.
            anchor: whether it is an anchor, which holds its own expert alone.
        """
        work, resident = self.work, modules(self.work)
        ids, experts = list(held), resident.experts[: len(held)]
        for network, weights in zip(experts, held.values(), strict=True):
            network.load_state_dict(weights)
        resident.gate.load_state_dict(gate)
        with torch.no_grad():
            embedding_BD = resident.common.embed(self.x)
        optimiser = torch.optim.SGD(
            [
                {"params": [p for network in experts for p in network.parameters()], "lr": work.learning_rate},
                {"params": list(resident.gate.parameters()), "lr": work.gate_learning_rate},
            ],
            momentum=work.momentum,
        )
        losses = []
        for rows in shuffled(len(self.y), work.batch_size):
            scores_BM, y_B = resident.gate(embedding_BD[rows]), self.y[rows]
            logits_KBC = torch.stack([network(self.x[rows]) for network in experts])
            loss = (
                anchor_loss(scores_BM, logits_KBC, y_B, ids) if anchor else mixed_loss(scores_BM, logits_KBC, y_B, ids)
            )
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            losses.append(loss.detach())
        return Update(copied(resident.gate), dict(zip(ids, map(copied, experts), strict=True)), mean(losses))


def anchor_loss(scores_BM: Tensor, logits_KBC: Tensor, y_B: Tensor, ids: Sequence[int]) -> Tensor:
    """Returns the anchor's expert's loss plus the gate's, which learns that the samples are this expert's."""
    return cross_entropy(logits_KBC[0], y_B) + cross_entropy(scores_BM, torch.full_like(y_B, ids[0]))


def mixed_loss(scores_BM: Tensor, logits_KBC: Tensor, y_B: Tensor, ids: Sequence[int]) -> Tensor:
    """Returns the loss of the held experts' probabilities, mixed by the gate's weights over those K."""
    log_weights_BK = log_softmax(scores_BM[:, ids], dim=1)
    mixed_BC = torch.logsumexp(log_weights_BK.T.unsqueeze(-1) + log_softmax(logits_KBC, dim=-1), dim=0)
    return nll_loss(mixed_BC, y_B)


def best_experts(scores: Sequence[float], count: int) -> tuple[int, ...]:
    """Returns the ids of the `count` highest scores, best first.

    >>> best_experts([0.1, 0.6, 0.3], 2)
    (1, 2)
    """
    return tuple(sorted(range(len(scores)), key=lambda expert: -scores[expert])[:count])


def averaged(states: Sequence[State]) -> dict[str, Tensor]:
    """Returns the mean of the weights, each client counted alike."""
    return {name: torch.stack([state[name] for state in states]).mean(dim=0) for name in states[0]}


def copied(network: nn.Module) -> State:
    """Returns a copy of the module's weights."""
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


def mean(losses: Sequence[Tensor]) -> float:
    """Returns the mean of the losses."""
    return float(torch.stack(list(losses)).mean())
