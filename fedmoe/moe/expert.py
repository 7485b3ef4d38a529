"""What an expert is: any module that maps inputs to class logits and can show the embedding on the way.

Shapes: B samples, C classes, D embedding width; inputs are B x channels x height x width, normalised floats, or, for an
expert that reads embeddings, B x D x 1 x 1: an image of one pixel with D channels.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor, nn

__all__ = ["Expert", "ExpertSpec"]


@dataclass(frozen=True, kw_only=True)
class ExpertSpec:
    """What an expert is built from.

    Attributes:
        in_shape: channels, height, width of one input.
        num_classes: C.
        width: units or channels; 0: the backbone's own default.
        norm: `"group"` or `"batch"`, for backbones that normalise.
        arguments: the backbone's own settings (`experts.NAME.argument`): keyword arguments of its class.
        common: the common expert, for backbones that stand `on_common`.
    """

    in_shape: tuple[int, int, int]
    num_classes: int
    width: int = 0
    norm: str = "group"
    arguments: Mapping[str, object] = field(default_factory=dict)
    common: "Expert | None" = field(default=None, repr=False)


class Expert(nn.Module, ABC):
    """An expert: `head(embed(x))`. The common expert is one too; its `embed` feeds the gate.

    Attributes:
        reads: what it is given: `"image"`, or `"embedding"`, the frozen common expert's (`in_shape` is D, 1, 1).
        on_common: it is built on the frozen common expert's weights (`ExpertSpec.common`), which every client has, and
            holds as its own what differs.
        shared: patterns of the names of tensors that all experts have in common, for strategies that keep them alike
            (`"stem.*"`); mostly none.
        embedding_dim: D.
        head: the last, linear layer: embedding -> class logits.
    """

    reads: ClassVar[str] = "image"
    on_common: ClassVar[bool] = False
    shared: ClassVar[tuple[str, ...]] = ()
    embedding_dim: int
    head: nn.Linear

    @property
    def draws(self) -> int:
        """Returns how many numbers from [0, 1), drawn evenly and by itself, each sample comes with; by default none.

        One that takes some takes them as `forward`'s second argument, and does without them where it is served. They
        are drawn from the client's own stream, anew for each client and round (as `Gate.draws`), for objectives that
        hand them on (`Batch.lots_BL`).
        """
        return 0

    @abstractmethod
    def embed(self, x_BCHW: Tensor) -> Tensor:
        """Returns embedding_BD, the input of `head`."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Returns logits_BC."""
        logits_BC: Tensor = self.head(self.embed(x_BCHW))
        return logits_BC
