"""Label-prior correction by expectation maximisation on an unlabelled batch."""

import torch
from torch import Tensor

__all__ = ["correct_prior"]


def correct_prior(
    log_probs_BC: Tensor, train_prior_C: Tensor, *, max_steps: int = 100, tolerance: float = 1e-6
) -> Tensor:
    """Returns probs_BC under the batch's own label prior, which is estimated from the batch without its labels.

    Saerens, Latinne and Decaestecker, Neural Computation 14(1), 2002: `p'(c|x) ~ p(c|x) q_c / p_c` and
    `q_c = mean_x p'(c|x)` in turn, until q moves by less than `tolerance`. A method that sees a client's whole
    unlabelled batch (as client-level top-K routing does) must be compared with one that does this.

    Args:
        log_probs_BC: a classifier's log-probabilities.
        train_prior_C: label prior of the data it was trained on; a label with prior 0 stays impossible.
        max_steps: bound on the iterations.
        tolerance: largest change of the prior at which to stop.
    """
    prior_C = train_prior_C.double()
    # Left out rather than divided by next to nothing: that factor, step after step, would make the label certain.
    scores_BC = (log_probs_BC.double() - prior_C.log()).masked_fill(prior_C == 0, float("-inf"))
    posterior_BC = torch.softmax(log_probs_BC.double(), dim=1)
    for _ in range(max_steps):
        posterior_BC = torch.softmax(scores_BC + prior_C.clamp_min(1e-300).log(), dim=1)
        fresh_C = posterior_BC.mean(dim=0)
        moved = float((fresh_C - prior_C).abs().max())
        prior_C = fresh_C
        if moved < tolerance:
            break
    return posterior_BC
