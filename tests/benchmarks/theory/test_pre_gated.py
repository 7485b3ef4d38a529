"""The small version of Pre-gated MoE's experiment: how long ways take by their order, and what pre-gates cost."""

import numpy as np
import pytest
import torch

from benchmarks.theory.pre_gated import ROWS, measure, spread


def test_two_blocks_with_pre_gates_are_as_good_as_with_their_own_once_fine_tuned() -> None:
    found = {row: np.mean([measure(row, seed, True)["accuracy"] for seed in range(3)]) for row in ROWS[3:]}
    assert found["accuracy: own gates"] > 90
    assert found["accuracy: pre-gates, fine-tuned"] > found["accuracy: own gates, trained on"] - 1


@pytest.mark.parametrize("seed", range(3))
def test_the_term_of_balance_is_1_where_all_is_equal_and_the_pool_where_one_gets_all(seed: int) -> None:
    even = torch.eye(4).repeat(5, 1) * 9.0
    assert float(spread(even)) == pytest.approx(1.0)
    alone = torch.zeros(20, 4)
    alone[:, seed] = 50.0
    assert float(spread(alone)) == pytest.approx(4.0)


def test_experts_in_memory_are_one_two_or_all_of_two_blocks() -> None:
    found = [measure(row, 0, True) for row in ROWS[:3]]
    assert [run["peak"] for run in found] == [1, 16, 2]
    assert all(run["ms 1"] >= 0.98 * run["formula 1"] for run in found), "nothing is faster than its schedule"
