"""Experts that look at an input patch by patch, with the same filters on each, and add up what they find.

Shapes: B samples, P patches, D width of a patch, F filters, C classes.
"""

import torch
from torch import Tensor, nn

from fedmoe.moe.expert import Expert, ExpertSpec

__all__ = ["PatchExpert", "patches_of"]

FILTERS_PER_CLASS = 8


def patches_of(x_BCHW: Tensor) -> Tensor:
    """Returns the patches x_BPD of images: each row of each channel is one."""
    return x_BCHW.flatten(1, 2)


class PatchExpert(Expert):
    """Filters whose responses to the patches are added up, `e_f = sum_p s(w_f . x_p + b_f)`, and a linear head.

    A subclass gives `embed`, which says what the activation s is.

    Chen et al. (arXiv 2208.02813, section 3) add up the responses of each class's J filters: `f_c = sum_j e_(c,j)`.
    The head starts as just that sum, ones for a class's own filters and zeros for the others', without a bias. In the
    paper it stays so; here it is a layer like any other, and learns unless it is told not to.

    Args:
        spec: what it is built from; `spec.width` sets J (8 by default).
        start: filters start uniform within `start / sqrt(D)`; 0.001 in the paper's code, which divides gradients by
            their length. A cube's gradient falls with the square of it: plain descent does not leave 0.001.
        fixed_head: the head stays as it is, as in the paper.
    """

    def __init__(self, spec: ExpertSpec, *, start: float = 0.001, fixed_head: bool = False) -> None:
        super().__init__()
        per_class = spec.width or FILTERS_PER_CLASS
        self.embedding_dim = per_class * spec.num_classes
        self.filters = nn.Linear(spec.in_shape[2], self.embedding_dim)
        self.head = nn.Linear(self.embedding_dim, spec.num_classes)
        with torch.no_grad():
            self.filters.weight.mul_(start)
            self.filters.bias.mul_(start)
            self.head.weight.copy_(torch.eye(spec.num_classes).repeat_interleave(per_class, dim=1))
            self.head.bias.zero_()
        self.head.requires_grad_(not fixed_head)
