"""Low-rank experts: the frozen common expert's layers, each with a small correction of its own."""

import copy
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fedmoe.errors import SettingsError
from fedmoe.moe.expert import Expert, ExpertSpec

__all__ = ["LowRankExpert"]


class LowRankExpert(Expert):
    """`W_0 x + (alpha / r) B A x` in every linear and convolutional layer of the common expert's body, and a head.

    LoRA (arXiv 2106.09685, section 4.1), as AdaMoLE's experts are (arXiv 2405.00361). A begins with Kaiming's uniform
    values, B with 0, the head with the common expert's: so every expert begins as the common expert. W_0 travels once,
    as the common expert; a round moves A, B and the head. A convolution's kernel counts as a matrix, output channels by
    all else. All other parts of the common expert, its running statistics too, stay as they are.

    Copies of several clients are merged factor by factor, to mean(B) mean(A). That is not mean(B A): of two copies it
    lacks (B_1 - B_2)(A_1 - A_2) / 4, a product of how far the clients went apart. The mean itself has twice
    the rank.

    Args:
        spec: what it is built from; `common` must be there.
        rank: r, at least 1; where a layer's smaller side is less, its factors are only that wide.
        alpha: the correction's scale is this by the rank that was asked for.

    Raises:
        SettingsError: there is no common expert, or the rank is below 1.
    """

    on_common: ClassVar[bool] = True

    def __init__(self, spec: ExpertSpec, *, rank: int = 4, alpha: float = 16.0) -> None:
        super().__init__()
        if spec.common is None:
            raise SettingsError("low-rank experts stand on a common expert, got none; hint: ExpertSpec(common=...)")
        if rank < 1:
            raise SettingsError(f"experts.low_rank.rank must be at least 1, got {rank}; hint: 4")
        common = copy.deepcopy(spec.common)  # its own: one that is moved to another device takes no other along
        self.scale = alpha / rank
        self.embedding_dim = common.embedding_dim
        self.head = nn.Linear(common.head.in_features, common.head.out_features)
        self.head.load_state_dict(common.head.state_dict())
        self.down, self.up = nn.ParameterDict(), nn.ParameterDict()
        for name, weight in corrected(common):
            rows, columns = weight.shape[0], weight[0].numel()
            r = min(rank, rows, columns)
            self.down[key(name)] = nn.Parameter(torch.empty(r, columns))
            self.up[key(name)] = nn.Parameter(torch.zeros(rows, r))
            nn.init.kaiming_uniform_(self.down[key(name)], a=5**0.5)
        # in a tuple, and so no part of this module: it is neither trained nor sent
        self.frozen = (_Body(common).requires_grad_(False).eval(),)

    def embed(self, x_BCHW: Tensor) -> Tensor:
        """Returns the corrected body's embedding_BD."""
        weights = {
            f"common.{name}": weight + self.scale * (self.up[key(name)] @ self.down[key(name)]).view_as(weight)
            for name, weight in corrected(self.frozen[0].common)
        }
        embedding_BD: Tensor = functional_call(self.frozen[0], weights, (x_BCHW,))
        return embedding_BD

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> "LowRankExpert":
        """Moves the frozen layers along, to another device or type."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.frozen[0]._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self


class _Body(nn.Module):
    """The common expert's body as a module that can be called functionally."""

    def __init__(self, common: Expert) -> None:
        super().__init__()
        self.common = common

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.common.embed(x_BCHW)


def corrected(common: Expert) -> Iterator[tuple[str, Tensor]]:
    """Yields name and weight of every layer that gets a correction: linear and convolutional ones but the head."""
    for name, layer in common.named_modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)) and layer is not common.head:
            yield f"{name}.weight", layer.weight


def key(name: str) -> str:
    """Returns a parameter's name without the dots, which `ParameterDict` does not take."""
    return name.replace(".", "_")
