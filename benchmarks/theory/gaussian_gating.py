"""Maximum likelihood of softmax-gated Gaussian experts of one input: samples, a fit, and what tells it from the truth.

The mixture is `TopKMixture` with K = all. Shapes: N samples, M experts, F = 2 features (input and a constant one).
"""

import numpy as np
from scipy.optimize import minimize

from benchmarks.theory.top_k_density import hellinger
from fedmoe.evaluation.recovery import cell_errors, voronoi_cells, voronoi_loss
from fedmoe.federation.logistic_sums import Floats, log_softmax
from fedmoe.federation.top_k_mixture import TopKMixture

__all__ = ["errors_of", "fitted", "free_of", "gradient", "mixture_of", "near", "samples_at"]

ITERATIONS = 1_000
DEVIATION = 12**-0.5  # of an input that is even on (0, 1)
LARGEST, LEAST_SIGMA = 50.0, 0.05  # bounds of the experts' parameters


def samples_at(true: TopKMixture, x_N: Floats, stream: np.random.Generator) -> tuple[Floats, Floats]:
    """Returns inputs with a constant (N, 2), and outputs (N)."""
    features_N2 = np.stack([x_N, np.ones_like(x_N)], axis=1)
    ends_NM = np.exp(true.log_gate_NM(features_N2)).cumsum(axis=1)
    expert_N = (stream.random((len(x_N), 1)) > ends_NM[:, :-1]).sum(axis=1)
    means_N = (features_N2 * true.lines_MF[expert_N]).sum(axis=1)
    return features_N2, means_N + true.sigma_M[expert_N] * stream.normal(size=len(x_N))


def near(true: TopKMixture, ids: list[int], stream: np.random.Generator) -> TopKMixture:
    """Returns a start near the truth with an expert for each id; those of one id share its weight."""
    copies_M = np.log([ids.count(own) for own in ids])
    gate_MG = true.gate_MG[ids] - np.stack([np.zeros(len(ids)), copies_M], axis=1)
    gate_MG += stream.normal(0, (1.0, 0.3), gate_MG.shape)
    lines_MF = true.lines_MF[ids] + stream.normal(0, 0.3, (len(ids), 2))
    return TopKMixture(
        gate_MG - gate_MG[-1], lines_MF, true.sigma_M[ids] * np.exp(stream.normal(0, 0.1, len(ids))), len(ids)
    )


def free_of(mixture: TopKMixture) -> Floats:
    """Returns the free parameters: the gate but for its last row, lines, logarithms of the deviations."""
    return np.concatenate([mixture.gate_MG[:-1].ravel(), mixture.lines_MF.ravel(), np.log(mixture.sigma_M)])


def mixture_of(free_P: Floats, experts: int) -> TopKMixture:
    """Returns the mixture that `free_of` wrote."""
    gate_MG = np.zeros((experts, 2))
    gate_MG[:-1] = free_P[: 2 * experts - 2].reshape(-1, 2)
    lines_MF = free_P[2 * experts - 2 : 4 * experts - 2].reshape(-1, 2)
    return TopKMixture(gate_MG, lines_MF, np.exp(free_P[4 * experts - 2 :]), experts)


def gradient(mixture: TopKMixture, features_N2: Floats, y_N: Floats) -> tuple[float, Floats]:
    """Returns the mean negative log-likelihood and its gradient by the free parameters: sums over samples, by Fisher.

    They are sums, so a federated server may have them of its clients; EM's own sums hold the same
    (`fedmoe.federation.top_k_mixture.top_k_sums`).
    """
    log_gate_NM = log_softmax(features_N2 @ mixture.gate_MG.T)
    scaled_NM = (y_N[:, None] - features_N2 @ mixture.lines_MF.T) / mixture.sigma_M
    log_joint_NM = log_gate_NM - 0.5 * scaled_NM**2 - np.log(mixture.sigma_M) - 0.5 * np.log(2 * np.pi)
    top_N1 = log_joint_NM.max(axis=1, keepdims=True)
    raw_NM = np.exp(log_joint_NM - top_N1)
    sum_N1 = raw_NM.sum(axis=1, keepdims=True)
    share_NM, size = raw_NM / sum_N1, len(y_N)
    by_gate = (share_NM - np.exp(log_gate_NM)).T @ features_N2
    by_lines = (share_NM * scaled_NM / mixture.sigma_M).T @ features_N2
    by_logs = (share_NM * (scaled_NM**2 - 1)).sum(axis=0)
    value = -float((np.log(sum_N1) + top_N1).mean())
    return value, -np.concatenate([by_gate[:-1].ravel(), by_lines.ravel(), by_logs]) / size


def fitted(
    start: TopKMixture, features_N2: Floats, y_N: Floats, bounds: tuple[float, float] = (8.0, 3.0)
) -> TopKMixture:
    """Returns the summit of the likelihood above `start`; quasi-Newton, for EM crawls where experts are alike.

    Parameters stay in a compact set, as the theory has them: an expert with two samples has an infinite likelihood, and
    a copy whose weight may vanish tells nothing.

    Args:
        start: where to begin.
        features_N2: inputs and a constant.
        y_N: outputs.
        bounds: largest absolute values of the gate's slopes and biases.
    """

    def value(free_P: Floats) -> tuple[float, Floats]:
        return gradient(mixture_of(free_P, start.k), features_N2, y_N)

    options = {"maxiter": ITERATIONS, "ftol": 1e-14, "gtol": 1e-8, "maxcor": 30}
    of_gate = [(-bound, bound) for bound in bounds] * (start.k - 1)
    limits = of_gate + [(-LARGEST, LARGEST)] * (2 * start.k) + [(np.log(LEAST_SIGMA), np.log(LARGEST))] * start.k
    found = minimize(value, free_of(start), jac=True, method="L-BFGS-B", bounds=limits, options=options)
    return mixture_of(found.x, start.k)


def errors_of(found: TopKMixture, true: TopKMixture) -> dict[str, float]:
    """Returns Hellinger distance, Voronoi loss, and each kind of parameter's error in its cell: the mean, the greatest.

    Cells go by lines and deviations; a copy counts by its mean weight over inputs in (0, 1). Slopes are those by an
    input whose deviation is 1: the loss's powers depend on units.
    """
    kinds = [
        {
            "slopes": DEVIATION * own.lines_MF[:, :1],
            "intercepts": own.lines_MF[:, 1:],
            "variance": own.sigma_M[:, None] ** 2,
        }
        for own in (found, true)
    ]
    gates = [own.gate_MG * np.array([DEVIATION, 1.0]) for own in (found, true)]
    cells_M = voronoi_cells(np.c_[found.lines_MF, found.sigma_M], np.c_[true.lines_MF, true.sigma_M])
    x_N = (np.arange(400) + 0.5) / 400
    features_N2 = np.stack([x_N, np.ones_like(x_N)], axis=1)
    use_M, use_T = (np.exp(own.log_gate_NM(features_N2)).mean(axis=0) for own in (found, true))
    told = cell_errors(kinds[0], kinds[1], cells_M, use_M, use_T)
    last = cells_M == cells_M[-1]
    shift = float(use_M[last] @ gates[0][last, 0] / use_M[last].sum()) - float(gates[1][cells_M[-1], 0])
    slopes = {"gate slopes": gates[0][:, :1] - shift}, {"gate slopes": gates[1][:, :1]}
    told |= cell_errors(*slopes, cells_M, use_M, use_T)
    farther = {
        f"{kind}, farther copy": float(np.abs(own[kind] - wanted[kind][cells_M]).max())
        for own, wanted in (kinds, slopes)
        for kind in own
    }
    return {
        **farther,
        "density": hellinger(found, true),
        "voronoi": voronoi_loss(gates[0], gates[1], kinds[0], kinds[1], cells_M),
        **told,
    }
