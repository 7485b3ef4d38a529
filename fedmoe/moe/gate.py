"""What a gate is: embedding -> scores over the pool -> weights of the held experts.

Shapes: B samples, D features of what the gate reads, L lots of a sample, M experts in the pool, K held ones.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from fedmoe.moe.routing import Routing, held_softmax, ordered

__all__ = ["Gate", "GateSpec"]

SMALLEST_LOT = 1e-6  # lots are kept this far from 0 and 1, where a logarithm or an inverse distribution has no value


@dataclass(frozen=True, kw_only=True)
class GateSpec:
    """What a gate is built from.

    Attributes:
        in_features: D, the width of what the gate reads; its lots are not counted.
        num_experts: M.
        hidden: units of its hidden layer, where it has one.
        arguments: the gate's own settings (`gate.NAME.argument`): keyword arguments of its class.
        in_shape: channels, height, width of what the experts read, for a gate that reads images; `None`: one pixel of
            D channels.
    """

    in_features: int
    num_experts: int
    hidden: int
    arguments: Mapping[str, object] = field(default_factory=dict)
    in_shape: tuple[int, int, int] | None = None


class Gate(nn.Module, ABC):
    """A gate; a subclass gives `scores`, in one file under `fedmoe/moe/gates/`, and may give its own rule of weights.

    It is a pure function of its input and its parameters: it keeps no state, and draws nothing: what it needs of chance
    comes with its input (`draws`).

    Attributes:
        reads: what `scores` is given: `"embedding"` (the common expert's, float), `"group"` (one-hot of the sample's
            true label group or domain, which only a control may see), `"fingerprint"` (what of an image's looks
            the common expert's belief in the labels does not explain), `"image"` (what the experts read, normalised, in
            one row: D = channels x height x width), or `"lot"` (a number by lot for each expert).
        set_by_strategy: its weights are no training's, but come from the strategy that brings it (`Contract.gate`).
        falls_back: its weights may sum to less than 1, and what is left is the weight of the frozen common expert, in
            training and in serving.
        looks_at_batch: its weights of a sample depend on the samples beside it. Only clients with batches of equal size
            are stacked then, for rows that fill a batch up would be looked at too.
        shift_rows: names of tensors whose rows belong to experts, where adding one vector to all rows of one of them
            adds one number to all of a sample's scores, and such a number changes no weight: of all gates that differ
            by such vectors one is canonical (`fedmoe.moe.canonical`). Empty: there is no such freedom.
    """

    reads: ClassVar[str] = "embedding"
    set_by_strategy: ClassVar[bool] = False
    falls_back: ClassVar[bool] = False
    looks_at_batch: ClassVar[bool] = False
    shift_rows: ClassVar[tuple[str, ...]] = ()

    def __init__(self, spec: GateSpec) -> None:
        super().__init__()
        self.spec = spec

    @property
    def draws(self) -> int:
        """Returns L: how many numbers from [0, 1), drawn evenly and by itself, each sample comes with; by default none.

        A gate that reads lots has them already, and takes none.

        They follow what the gate reads (`split`), from the client's own stream, anew for each client and round. In
        further epochs of a round a sample has the same ones.
        """
        return 0

    @abstractmethod
    def scores(self, input_BX: Tensor) -> Tensor:
        """Returns logits_BM: the higher, the better the expert suits the sample.

        A client ranks the experts by them (by default by the mean of their softmax over the pool), whatever the rule of
        the weights.
        """

    def weigh(self, logits_BM: Tensor, expert_ids_K: Tensor) -> Tensor:
        """Returns weights_BK of the held experts, at least 0; by default the softmax of their scores.

        From the scores alone: no parameter is read. Rows sum to 1, or, where the gate `falls_back`, to at most 1.

        Args:
            logits_BM: as `scores` gives them.
            expert_ids_K: int64, which experts are held; the columns follow them.
        """
        return held_softmax(logits_BM, expert_ids_K)

    def split(self, input_BX: Tensor) -> tuple[Tensor, Tensor]:
        """Returns what is read (B, D), and the lots (B, L), each at least 1e-6 away from 0 and 1."""
        lots_BL = input_BX[:, self.spec.in_features :].clamp(SMALLEST_LOT, 1 - SMALLEST_LOT)
        return input_BX[:, : self.spec.in_features], lots_BL

    def forward(self, input_BX: Tensor, held_M: Tensor | None = None) -> Routing:
        """Returns the routing over the held experts (bool mask; `None`: all of them).

        Raises:
            ValueError: nobody is held.
        """
        held_M = torch.ones(self.spec.num_experts, dtype=torch.bool) if held_M is None else held_M
        if not held_M.any():
            raise ValueError("a client must hold at least 1 expert, got 0")
        ids_K = held_M.nonzero().squeeze(1).to(input_BX.device)
        logits_BM = self.scores(input_BX)
        return ordered(logits_BM, ids_K, self.weigh(logits_BM, ids_K))
