"""L1 with as many features as samples in small; the fit against its optimality conditions; a federated run in small."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.theory import lasso_federated
from benchmarks.theory.experiment import main
from benchmarks.theory.lasso import EXPERIMENT, among, samples, starts, support, truth, values
from benchmarks.theory.lasso_mixture import LEAST_SIGMA, Mixture, Penalty, fit, objective, score
from fedmoe.federation.logistic_sums import log_softmax


def test_few_of_many_features_are_found_and_new_samples_are_told_better(tmp_path: Path) -> None:
    # An example and no law over seeds: in the full version seed 0 of five finds no two experts, for none of its starts
    # leads there (docs/systems/lasso.md); seed 2 does.
    results = main(EXPERIMENT, ["--output", str(tmp_path), "--seeds", "2..2", "--small"])
    mean = {row: {name: np.mean([run[name] for run in runs]) for name in runs[0]} for row, runs in results.items()}
    free, ours = mean["no penalty"], mean["L1 on g and b/s, by validation"]
    assert ours["score"] < mean["half the sum of squares, by validation"]["score"] - 0.3 < free["score"] - 5
    assert free["trained"] < ours["trained"], "it is not that more is learnt"
    assert ours["active"] > 4
    assert ours["zeroed"] > 70 > free["zeroed"]
    assert mean["L1 on g and b/s, by BIC"]["zeroed"] > 90
    assert (tmp_path / "lasso-small.png").stat().st_size > 10_000


def problem(seed: int) -> tuple[np.ndarray, np.ndarray, Mixture]:
    stream = np.random.default_rng(seed)
    x, y = samples(truth(12), 80, stream)
    (start,) = starts(x, y, 1, stream)
    return x, y, start


@pytest.mark.parametrize("penalty", [Penalty(0.0), Penalty(0.05), Penalty(0.05, scaled=False), Penalty(0.1, "l2")])
@pytest.mark.parametrize("seed", range(3))
def test_no_round_makes_the_objective_worse(seed: int, penalty: Penalty) -> None:
    x, y, mixture = problem(seed)
    told = []
    for _ in range(40):
        told.append(objective(mixture, penalty, x, y))
        mixture = fit(mixture, penalty, x, y, rounds=1)
    assert np.diff(told).max() < 1e-9
    assert told[-1] < told[0] - 0.1


@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_where_it_ends_no_slope_can_be_moved_to_gain(seed: int, scaled: bool) -> None:
    x, y, start = problem(seed)
    penalty = Penalty(0.06, scaled=scaled)
    end = fit(start, penalty, x, y, rounds=8_000, tolerance=1e-13)
    assert (end.sigma_M > LEAST_SIGMA).all()
    here, step = objective(end, penalty, x, y), 1e-4
    for name in ("gate_MP", "lines_MP"):
        for place in np.ndindex(*getattr(end, name).shape):
            if name == "gate_MP" and place[0] == 1:
                continue
            for by in (step, -step):
                moved = getattr(end, name).copy()
                moved[place] += by
                assert objective(replace(end, **{name: moved}), penalty, x, y) > here - 2e-7
    assert 0 < values(end) < 36


def test_the_score_is_the_density_written_out() -> None:
    x, y, mixture = problem(0)
    mixture = replace(mixture, gate_MP=np.random.default_rng(1).normal(size=(2, 12)))
    told = []
    for row, out in zip(x, y, strict=True):
        shares = np.exp(log_softmax(mixture.gate_MP @ row + mixture.gate0_M))
        normal = [
            np.exp(-((out - line @ row - constant) ** 2) / (2 * s**2)) / np.sqrt(2 * np.pi * s**2)
            for line, constant, s in zip(mixture.lines_MP, mixture.lines0_M, mixture.sigma_M, strict=True)
        ]
        told.append(-np.log(shares @ normal))
    assert score(mixture, x, y) == pytest.approx(np.mean(told))


def test_samples_are_the_truths_own() -> None:
    true = truth(6)
    x, y = samples(true, 20_000, np.random.default_rng(0))
    near = replace(true, lines_MP=1.05 * true.lines_MP)
    assert score(true, x, y) < score(near, x, y)
    assert support(true).tolist() == [0, 1, 2, 3, 4]
    run = type("Run", (), {"train": (x[:4_000], y[:4_000])})
    again = among(np.arange(5), true, run)  # type: ignore[arg-type]
    np.testing.assert_allclose(again.lines_MP, true.lines_MP, atol=0.1)
    assert support(again).tolist() == [0, 1, 2, 3, 4]


def test_a_penalty_saves_bytes_in_a_federated_run() -> None:
    for over in ("fedjets", "fedprints"):
        strongest = max(lasso_federated.STRENGTHS[over])
        rows = (f"`{over}`, lambda {strength:g}" for strength in (0, strongest))
        plain, strong = (lasso_federated.measure(row, 0, small=True) for row in rows)
        # four rounds over FedPrints make too few zeros to pay for a bit a place: never more than dense
        share = 0.97 if over == "fedjets" else 1.0
        assert strong["megabytes"] <= share * plain["megabytes"]
        assert strong["up"] + strong["down"] <= share * (plain["up"] + plain["down"])
