"""The small versions of the experiments with self-tuned hyper-parameters, and laws of their data."""

import numpy as np
import pytest
import torch

from benchmarks.theory import self_tuning, self_tuning_dropout
from benchmarks.theory.noisy_digits import DOMAINS, WRONG, load_noisy_digits
from benchmarks.theory.self_tuning import GRID, best_on_grid, error, ridge_data, ridge_weights
from fedmoe.data.contracts import LoadRequest
from fedmoe.data.datasets.digits import load_digits


@pytest.mark.parametrize("seed", [0, 1])
def test_lambda_comes_to_the_grids_best_from_both_sides(seed: int) -> None:
    low, high = (self_tuning.measure(f"from log lambda = {start}", seed, True) for start in (-5, 4))
    assert low["path/0"] < low["best"] - 2
    assert high["path/0"] > high["best"] + 2
    for run in (low, high):
        assert run["away"] < 1.2
        assert run["valid"] < 3
    assert abs(low["end"] - high["end"]) < 1


def test_without_draws_it_goes_astray() -> None:
    assert self_tuning.measure("not drawn around, from 4", 0, True)["away"] > 2


@pytest.mark.parametrize("seed", range(3))
def test_the_closed_solution_is_the_least_and_the_best_lies_inside_the_grid(seed: int) -> None:
    data = ridge_data(seed)
    x_ND, y_N = (part.double() for part in data.train)
    for log_strength in (-3.0, 0.0, 2.0):
        w_D = ridge_weights(data, log_strength).requires_grad_()
        loss = (y_N - x_ND @ w_D).square().mean() + np.exp(log_strength) * w_D.square().sum()
        (gradient,) = torch.autograd.grad(loss, w_D)
        assert gradient.abs().max() < 1e-9
    best, least = best_on_grid(data)
    assert GRID[0] < best < GRID[-1]
    assert least == min(error(data.valid, ridge_weights(data, value)) for value in GRID)
    assert least < error(data.valid, ridge_weights(data, GRID[0]))


def test_the_rate_of_dropout_rises_from_a_low_start_and_learns_more_than_one_left_there() -> None:
    tuned, left = (self_tuning_dropout.measure(row, 0, True) for row in ("tuned from 0.05", "left at 0.05"))
    assert tuned["rate"] > 0.1
    assert left["rate"] == pytest.approx(0.05)
    assert tuned["loss"] < left["loss"]


@pytest.mark.parametrize("seed", [0, 1])
def test_the_noisy_digits_are_wrong_where_they_are_said_to_be(seed: int) -> None:
    request = LoadRequest(root=None, seed=seed, download_timeout=1.0)
    data, clean = load_noisy_digits(request), load_digits(request)
    assert data.domain_N is not None
    changed_N = data.y_N != clean.y_N
    assert not changed_N[data.domain_N != 2].any()
    assert not changed_N[data.num_train :].any()
    assert changed_N[: data.num_train][data.domain_N[: data.num_train] == 2].mean() == pytest.approx(
        0.9 * WRONG, abs=0.06
    )
    sizes = np.bincount(data.domain_N[: data.num_train], minlength=len(DOMAINS))
    assert sizes[1] < sizes[0] / 3
    assert (load_noisy_digits(request).y_N == data.y_N).all()
