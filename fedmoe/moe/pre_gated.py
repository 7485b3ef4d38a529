"""A stack of mixture blocks whose gates may choose a block ahead: Pre-gated MoE (arXiv 2308.12066), in small.

Shapes: B samples, D features, M experts of a block, C classes; L blocks.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fedmoe.moe.mixing import perceptron

__all__ = ["Choice", "PreGatedStack"]

Choice = tuple[Tensor, Tensor]
"""Of each sample: the expert that is chosen for it, int64 (B,), and its probability (B,)."""


class PreGatedStack(nn.Module):
    """L residual blocks `h <- h + p_m E_m(LN(h))`, each with the one expert m that a gate chooses, of probability p_m.

    The gate of block n reads what block n reads, h_(n-1), as ever; or, `ahead`, what the block before it reads,
    h_(n-2), so that its expert is known while that block computes: theirs is the pre-gate of block n - 1. The first
    block has a gate of its own either way, and the gates are as large: trained with the one rule, a stack can go on
    with the other, as the paper fine-tunes pretrained networks.

    Args:
        in_features: of the inputs.
        classes: C.
        blocks: L.
        experts: M.
        features: D.
        hidden: hidden units of an expert.
        seed: of all first weights.
        ahead: which rule.

    Raises:
        ValueError: there is no block, or no expert.
    """

    def __init__(
        self,
        in_features: int,
        classes: int,
        *,
        blocks: int,
        experts: int,
        features: int = 32,
        hidden: int = 32,
        seed: int = 0,
        ahead: bool = False,
    ) -> None:
        super().__init__()
        if min(blocks, experts) < 1:
            raise ValueError(f"a stack has blocks and experts, got {blocks} and {experts}; hint: one of each at least")
        self.ahead = ahead
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.enter = nn.Linear(in_features, features)
            self.norms = nn.ModuleList(nn.LayerNorm(features) for _ in range(blocks))
            self.gates = nn.ModuleList(nn.Linear(features, experts) for _ in range(blocks))
            self.experts = nn.ModuleList(
                nn.ModuleList(perceptron(features, hidden) for _ in range(experts)) for _ in range(blocks)
            )
            self.head = nn.Sequential(nn.LayerNorm(features), nn.Linear(features, classes))

    @property
    def blocks(self) -> int:
        """Returns L."""
        return len(self.gates)

    @property
    def pool(self) -> int:
        """Returns M."""
        return int(self.gates[0].out_features)  # type: ignore[arg-type]

    def scores(self, block: int, h_BD: Tensor) -> Tensor:
        """Returns logits_BM of a block's gate, from what it reads."""
        logits_BM: Tensor = self.gates[block](h_BD)
        return logits_BM

    def choose(self, block: int, h_BD: Tensor) -> Choice:
        """Returns each sample's expert of a block, from what its gate reads."""
        return best_of(self.scores(block, h_BD))

    def add(
        self, block: int, h_BD: Tensor, expert: Callable[[Tensor], Tensor] | Mapping[str, Tensor], p_B: Tensor
    ) -> Tensor:
        """Returns what a block with one expert gives, for samples that have all chosen it.

        Args:
            block: which.
            h_BD: what it reads.
            expert: the expert, or its tensors by name, as they lie on a shelf.
            p_B: the probability that each sample has chosen it with.
        """
        read_BD = self.norms[block](h_BD)
        if isinstance(expert, Mapping):
            out_BD: Tensor = functional_call(self.experts[block][0], dict(expert), (read_BD,))  # type: ignore[index]
        else:
            out_BD = expert(read_BD)
        return h_BD + p_B[:, None] * out_BD

    def forward(self, x_BF: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Returns logits_BC, and the gates' logits_BM, block by block, for a term that balances them."""
        h_BD, before_BD = self.enter(x_BF), None
        scores = []
        for block in range(self.blocks):
            read_BD = h_BD if before_BD is None or not self.ahead else before_BD
            scores.append(self.scores(block, read_BD))
            ids_B, p_B = best_of(scores[-1])
            read_BD, own = self.norms[block](h_BD), self.experts[block]
            outs_MBD = torch.stack([expert(read_BD) for expert in own])  # type: ignore[attr-defined]
            before_BD = h_BD
            h_BD = h_BD + p_B[:, None] * outs_MBD[ids_B, torch.arange(len(ids_B))]
        return self.head(h_BD), scores


def best_of(logits_BM: Tensor) -> Choice:
    """Returns the highest of each row, and its softmax probability."""
    p_B, ids_B = torch.softmax(logits_BM, dim=1).max(dim=1)
    return ids_B, p_B
