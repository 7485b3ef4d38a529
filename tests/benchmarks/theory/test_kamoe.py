"""KAMoE's experiment: mixtures beat one expert alone on a piecewise target, and what the sets and models are."""

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.theory.experiment import main
from benchmarks.theory.kamoe import EXPERIMENT, ROWS, model_of, parameters
from benchmarks.theory.regression_sets import SETS, regression_set


def test_three_experts_beat_one_and_their_gates_are_near_each_other(tmp_path: Path) -> None:
    results = main(EXPERIMENT, ["--output", str(tmp_path), "--seeds", "0..1", "--small"])
    r2 = {row: np.mean([run["piecewise/10"] for run in runs]) for row, runs in results.items()}
    alone = r2["one MLP, of an expert's width"]
    gated = {row: value for row, value in r2.items() if row.startswith("3 experts")}
    assert min(gated.values()) > alone + 0.01
    assert max(gated.values()) < 1
    assert (tmp_path / "kamoe-small.png").stat().st_size > 1000


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", SETS)
def test_a_sets_parts_are_disjoint_and_standardised_by_the_first(name: str, seed: int) -> None:
    data = regression_set(name, seed)
    x_ND = torch.cat([data.train[0], data.valid[0], data.test[0]])
    assert len(torch.unique(x_ND, dim=0)) == len(x_ND) == len(data.train[0]) + len(data.valid[0]) + len(data.test[0])
    assert abs(len(data.test[0]) / len(x_ND) - 0.2) < 0.01
    for part in data.train:
        torch.testing.assert_close(part.mean(dim=0), torch.zeros(part.shape[1:]), atol=1e-5, rtol=0)
        torch.testing.assert_close(part.var(dim=0, unbiased=False), torch.ones(part.shape[1:]), atol=1e-4, rtol=0)
    other = regression_set(name, seed + 1)
    assert not torch.equal(other.test[0], data.test[0])
    assert torch.equal(regression_set(name, seed).test[1], data.test[1])


def test_a_set_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match=r"piecewise.*hint"):
        regression_set("california", 0)


@pytest.mark.parametrize("width", [10, 100])
def test_the_widened_network_has_the_mixtures_parameters(width: int) -> None:
    sizes = {row: parameters(model_of(made, 10, width, 0)) for row, made in ROWS.items()}
    largest = sizes["3 experts, gate `grkan`"]
    assert abs(sizes["one MLP, of the mixture's parameters"] - largest) <= 12
    assert all(sizes[row] <= largest for row in ROWS if row.startswith("3 experts"))


def test_a_blend_is_the_weighted_sum_of_its_experts() -> None:
    x_BD = torch.randn(9, 4)
    for row in ("3 experts, gate `grkan`", "3 experts, gate `grkan`, sigmoid"):
        blend = model_of(ROWS[row], 4, 10, 0)
        scores_BM = blend.gate.scores(x_BD)
        powers_BM = scores_BM.exp()
        sigmoid = row.endswith("sigmoid")
        weights_BM = powers_BM / (1 + powers_BM) if sigmoid else powers_BM / powers_BM.sum(dim=1, keepdim=True)
        out_B = torch.zeros(9)
        for i in range(3):
            own = slice(10 * i, 10 * (i + 1))
            hidden = torch.relu(x_BD @ blend.hidden.weight[own].T + blend.hidden.bias[own])
            out_B += weights_BM[:, i] * (hidden @ blend.out_MW[i] + blend.bias_M[i])
        torch.testing.assert_close(blend(x_BD)[:, 0], out_B)
