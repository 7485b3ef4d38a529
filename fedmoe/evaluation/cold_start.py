"""Cold start: how an unseen client fares while it only ever has a few unlabelled samples at a time.

Its samples come in some order, so many at a time. Each such batch is served as if it were all that the client has: the
batch alone ranks the experts, gets the K best, is answered, and estimates its label prior. What is told is the share of
right answers over all batches. No expert runs for it: what all of them say of each sample is there already.

Shapes: B samples of one client that are taken, n of them in a batch, G batches, M experts, K held ones, C classes.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedmoe.evaluation.predictions import Answers, corrections, predictions_of, share_of
from fedmoe.evaluation.prior_em import correct_priors
from fedmoe.evaluation.ranking import batch_scores
from fedmoe.evaluation.serving import Serving

__all__ = ["MOST_SAMPLES", "cold_start"]

MOST_SAMPLES = 1000  # of a client that are taken


def cold_start(
    clients: Sequence[Answers],
    orders: Sequence[NDArray[np.int64]],
    lots: Sequence[NDArray[np.int64]],
    serving: Serving,
    train_prior_C: Tensor,
) -> list[dict[str, dict[str, float]]]:
    """Returns, for each client, n as text -> way to predict -> accuracy: as it is, and with prior correction (`_em`).

    If answers are doubted, with the guarded one too (`_guarded`).

    With n at least the number of a client's samples, and no more of them than `MOST_SAMPLES`, these are its ordinary
    accuracies to the last bit: one batch, in the order in which they lie, and the same lots.

    Args:
        clients: what gate and experts say of each client's samples; outputs of the whole pool.
        orders: in which each client's samples come; the first `MOST_SAMPLES` are taken.
        lots: what breaks ties in each client's rankings.
        serving: how they are served, and each n.
        train_prior_C: label prior of the training population, for the correction.
    """
    found = []
    for own, order, own_lots in zip(clients, orders, lots, strict=True):
        taken_B, table = torch.from_numpy(order[:MOST_SAMPLES].astype(np.int64)), {}
        for size in serving.cold_start:
            # sorted within a batch: sums over it have the same last bits as over samples as they lie
            rows_B = torch.cat([part.sort().values for part in torch.split(taken_B, size)])
            predictions = batch_predictions(own, rows_B, size, own_lots, serving)
            table[str(size)] = batch_accuracies(predictions, own.y_B[rows_B], size, train_prior_C, serving.doubt)
        found.append(table)
    return found


def batch_predictions(
    own: Answers, rows_B: Tensor, size: int, lots: NDArray[np.int64], serving: Serving
) -> dict[str, Tensor]:
    """Returns log_probs_BC of each way to predict these rows, of which `size` at a time are all that there is."""
    logits_BM, num_experts, whole = own.logits_BM[rows_B], own.logits_BM.shape[1], len(rows_B) // size
    # the last batch may be smaller
    parts = [logits_BM[: whole * size].view(whole, size, num_experts), logits_BM[whole * size :][None]]
    scores_GM = torch.cat([batch_scores(part, serving.aggregation) for part in parts if part.numel()])
    # A stable sort of columns that stand in the order of their lots: of equal scores, the lower lot comes first.
    by_lot_M = torch.from_numpy(np.argsort(lots))
    held_GK = by_lot_M[scores_GM[:, by_lot_M].argsort(dim=1, descending=True, stable=True)[:, : serving.top_k]]
    parts_of: dict[str, list[Tensor]] = {}
    for rows, held_K in zip(torch.split(rows_B, size), held_GK.tolist(), strict=True):
        common_BC = None if own.common_BC is None else own.common_BC[rows]
        for name, log_probs_BC in predictions_of(own.of_held(rows, held_K), serving, common_BC).items():
            parts_of.setdefault(name, []).append(log_probs_BC)
    return {name: torch.cat(own_parts) for name, own_parts in parts_of.items()}


def batch_accuracies(
    predictions: Mapping[str, Tensor], y_B: Tensor, size: int, train_prior_C: Tensor, doubt: float
) -> dict[str, float]:
    """Returns the accuracy over all batches of each prediction, and of each with every batch's prior corrected."""
    shares = {}
    for name, log_probs_BC in predictions.items():
        shares[name] = share_of(log_probs_BC.argmax(dim=1) == y_B)
        for way, its in corrections(doubt).items():
            corrected_BC = torch.cat(correct_priors(torch.split(log_probs_BC, size), train_prior_C, doubt=its))
            shares[f"{name}_{way}"] = share_of(corrected_BC.argmax(dim=1) == y_B)
    return shares
