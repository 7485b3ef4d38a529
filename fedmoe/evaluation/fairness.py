"""Accuracies of many clients in a few numbers."""

from collections.abc import Sequence

import numpy as np

__all__ = ["spread"]


def spread(accuracies: Sequence[float]) -> dict[str, float]:
    """Returns `mean`, `std` (over clients, population form) and `worst_decile`: the mean of the worst tenth of clients.

    The worst tenth is rounded up, so it holds one client at least.

    >>> spread([0.5, 1.0])
    {'mean': 0.75, 'std': 0.25, 'worst_decile': 0.5}
    """
    values = np.sort(np.asarray(accuracies, dtype=np.float64))
    worst = values[: max(1, -(-len(values) // 10))]
    return {"mean": float(values.mean()), "std": float(values.std()), "worst_decile": float(worst.mean())}
