"""Label-prior correction by expectation maximisation on unlabelled batches.

Shapes: G batches (clients), N samples of all of them, C classes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from fedmoe.evaluation.chunks import chunks

__all__ = ["correct_priors"]

VALUES = 1 << 16  # that take their steps together: few enough for a core's own cache


def correct_priors(
    log_probs: Sequence[Tensor], train_prior_C: Tensor, *, max_steps: int = 100, tolerance: float = 1e-6
) -> list[Tensor]:
    """Returns, for each batch, probs_BC under its own label prior, which is estimated without its labels; float64.

    Saerens, Latinne and Decaestecker, Neural Computation 14(1), 2002: `p'(c|x) ~ p(c|x) q_c / p_c` and
    `q_c = mean_x p'(c|x)` in turn, until q moves by less than `tolerance`. A method that sees a client's whole
    unlabelled batch (as client-level top-K routing does) must be compared with one that does this.

    All batches take their steps together, and one that stands still is done. What a batch gets does not depend on the
    others, to the last bit: a row's softmax is its own affair, products and quotients are rounded correctly, and a
    batch's rows are added up one after another.

    Args:
        log_probs: each batch's log-probabilities (B, C) by a classifier, on the CPU.
        train_prior_C: label prior of the data it was trained on; a label with prior 0 stays impossible.
        max_steps: bound on the iterations.
        tolerance: largest change of the prior at which to stop.
    """
    sizes = [len(batch) for batch in log_probs]
    parts = [log_probs[part] for part in chunks(sizes, VALUES // len(train_prior_C))]
    return [found for part in parts for found in _together(part, train_prior_C.double(), max_steps, tolerance)]


def _together(log_probs: Sequence[Tensor], train_C: Tensor, max_steps: int, tolerance: float) -> Sequence[Tensor]:
    sizes_G = torch.tensor([len(batch) for batch in log_probs])
    owner_N, row_N = torch.arange(len(sizes_G)).repeat_interleave(sizes_G), torch.arange(int(sizes_G.sum()))
    log_NC = torch.cat(list(log_probs)).double()
    # Left out rather than divided by next to nothing: that factor, step after step, would make the label certain.
    scores_NC = (log_NC - train_C.log()).masked_fill(train_C == 0, float("-inf"))
    likelihood_NC = torch.softmax(scores_NC, dim=1)  # up to a factor a row
    prior_GC, moves_G = train_C.expand(len(sizes_G), -1), torch.ones(len(sizes_G), dtype=torch.bool)
    result_NC = posterior_NC = torch.softmax(log_NC, dim=1)
    for _ in range(max_steps):
        posterior_NC = likelihood_NC * prior_GC.index_select(0, owner_N)
        posterior_NC /= posterior_NC.sum(dim=1, keepdim=True)
        fresh_GC = torch.zeros_like(prior_GC).index_add_(0, owner_N, posterior_NC) / sizes_G[:, None]
        done_G = moves_G & ((fresh_GC - prior_GC).abs().amax(dim=1) < tolerance)
        prior_GC = fresh_GC
        if done_G.any():
            result_NC[row_N] = posterior_NC
            moves_G &= ~done_G
            kept_N = moves_G[owner_N]
            owner_N, row_N, likelihood_NC, posterior_NC = (
                x[kept_N] for x in (owner_N, row_N, likelihood_NC, posterior_NC)
            )
            if not len(row_N):
                break
    result_NC[row_N] = posterior_NC
    return torch.split(result_NC, sizes_G.tolist())
