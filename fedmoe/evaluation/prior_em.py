"""Label-prior correction by expectation maximisation on unlabelled batches.

Shapes: G batches (clients), N samples of all of them, C classes.
"""

from collections.abc import Sequence

import torch
from scipy import stats
from torch import Tensor

from fedmoe.evaluation.chunks import chunks

__all__ = ["correct_priors"]

LEAST_GAIN = 0.05  # nats a sample: models are never exact, and what is less is not worth a correction
SURE = 0.99  # of the test that a batch's labels are dealt otherwise than the training data's
SMALLEST = 1e-300  # prior by which an answer is weighed: a doubted label's may die out where one answer knows no other
VALUES = 1 << 16  # that take their steps together: few enough for a core's own cache


def correct_priors(
    log_probs: Sequence[Tensor],
    train_prior_C: Tensor,
    *,
    doubt: float = 0.0,
    max_steps: int = 100,
    tolerance: float = 1e-6,
) -> list[Tensor]:
    """Returns, for each batch, probs_BC under its own label prior, which is estimated without its labels; float64.

    Saerens, Latinne and Decaestecker, Neural Computation 14(1), 2002: `p'(c|x) ~ p(c|x) q_c / p_c` and
    `q_c = mean_x p'(c|x)` in turn, until q moves by less than `tolerance`. A method that sees a client's whole
    unlabelled batch (as client-level top-K routing does) must be compared with one that does this.

    A classifier that is sure where it is wrong keeps labels alive that a batch does not have. With `doubt` v above 0
    the prior is estimated as if, with probability v, an answer told nothing (Huber's contamination, Annals of
    Mathematical Statistics 35(1), 1964): `p(c|x) / p_c`, scaled to sum to 1 over the labels, becomes `(1 - v)` times
    that plus v shared out evenly. And the prior found has to pay: it must make the batch likelier than the training
    data's does, by Wilks' likelihood-ratio test at 1 % and by 0.05 nats a sample, else the answers stay as they are. If
    it does, they are weighed by it, without v.

    All batches take their steps together, and one that stands still is done. What a batch gets does not depend on the
    others, to the last bit: a row's softmax is its own affair, products and quotients are rounded correctly, and a
    batch's rows are added up one after another.

    Args:
        log_probs: each batch's log-probabilities (B, C) by a classifier, on the CPU.
        train_prior_C: label prior of the data it was trained on; a label with prior 0 becomes
            impossible, unless the answers stay as they are.
        doubt: v, in [0, 1).
        max_steps: bound on the iterations.
        tolerance: largest change of the prior at which to stop.
    """
    sizes = [len(batch) for batch in log_probs]
    parts = [log_probs[part] for part in chunks(sizes, VALUES // len(train_prior_C))]
    train_C = train_prior_C.double()
    return [found for part in parts for found in _together(part, train_C, doubt, max_steps, tolerance)]


def _together(
    log_probs: Sequence[Tensor], train_C: Tensor, doubt: float, max_steps: int, tolerance: float
) -> Sequence[Tensor]:
    sizes_G = torch.tensor([len(batch) for batch in log_probs])
    owner_N = torch.arange(len(sizes_G)).repeat_interleave(sizes_G)
    log_NC = torch.cat(list(log_probs)).double()
    # Left out rather than divided by next to nothing: that factor, step after step, would make the label certain.
    scores_NC = (log_NC - train_C.log()).masked_fill(train_C == 0, float("-inf"))
    likelihood_NC = torch.softmax(scores_NC, dim=1)  # up to a factor a row
    possible_C = (train_C > 0).double()
    doubted_NC = (1 - doubt) * likelihood_NC + doubt * possible_C / possible_C.sum()
    prior_GC = _priors(doubted_NC, owner_N, sizes_G, train_C, max_steps, tolerance)
    weights_GC = prior_GC.clamp_min(SMALLEST) if doubt else prior_GC
    answers_NC = likelihood_NC * weights_GC.index_select(0, owner_N)
    answers_NC /= answers_NC.sum(dim=1, keepdim=True)
    if doubt:
        pays_G = _pays(doubted_NC, owner_N, sizes_G, train_C, prior_GC)
        answers_NC = torch.where(pays_G[owner_N, None], answers_NC, torch.softmax(log_NC, dim=1))
    return torch.split(answers_NC, sizes_G.tolist())


def _priors(
    likelihood_NC: Tensor, owner_N: Tensor, sizes_G: Tensor, train_C: Tensor, max_steps: int, tolerance: float
) -> Tensor:
    """Returns, for each batch, the label prior before its last step of EM, used_GC."""
    used_GC = prior_GC = train_C.expand(len(sizes_G), -1)
    moves_G = torch.ones(len(sizes_G), dtype=torch.bool)
    for _ in range(max_steps):
        used_GC = torch.where(moves_G[:, None], prior_GC, used_GC)
        posterior_NC = likelihood_NC * prior_GC.index_select(0, owner_N)
        posterior_NC /= posterior_NC.sum(dim=1, keepdim=True)
        fresh_GC = torch.zeros_like(prior_GC).index_add_(0, owner_N, posterior_NC) / sizes_G[:, None]
        done_G = moves_G & ((fresh_GC - prior_GC).abs().amax(dim=1) < tolerance)
        prior_GC = fresh_GC
        if done_G.any():
            moves_G &= ~done_G
            kept_N = moves_G[owner_N]
            owner_N, likelihood_NC = owner_N[kept_N], likelihood_NC[kept_N]
            if not len(owner_N):
                break
    return used_GC


def _pays(likelihood_NC: Tensor, owner_N: Tensor, sizes_G: Tensor, train_C: Tensor, prior_GC: Tensor) -> Tensor:
    """Returns whether each batch is so much likelier under its prior than under the training data's: pays_G, bool."""
    under_N = (likelihood_NC * prior_GC.index_select(0, owner_N)).sum(dim=1).log()
    gain_N = under_N - (likelihood_NC * train_C).sum(dim=1).log()
    gain_G = torch.zeros(len(sizes_G), dtype=torch.float64).index_add_(0, owner_N, gain_N) / sizes_G
    free = max(1, int((train_C > 0).sum()) - 1)
    chance_G = float(stats.chi2.ppf(SURE, free)) / (2 * sizes_G)
    return gain_G > chance_G.clamp_min(LEAST_GAIN)
