"""A head on the common expert's embedding."""

from typing import ClassVar

from fedmoe.moe.experts.linear import LinearExpert

__all__ = ["HeadExpert"]


class HeadExpert(LinearExpert):
    """One linear layer on the frozen common expert's embedding, which every client has: all that travels is small."""

    reads: ClassVar[str] = "embedding"
