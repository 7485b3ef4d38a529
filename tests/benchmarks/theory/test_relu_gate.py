"""The small version of the rectified gate's experiment: exact zeros, where a softmax has none."""

from benchmarks.theory.relu_gate import measure


def test_a_rectified_gate_is_sparse_and_a_softmax_is_not() -> None:
    soft = measure("low rank experts, softmax (`mlp`)", 1, True)
    thin = measure("low rank experts, `relu`, bias 0", 1, True)
    beside = measure("whole experts, `relu`, bias 1, common expert 1", 1, True)
    assert (soft["zeros"], soft["empty"], soft["by_common"]) == (0, 0, 0)
    assert thin["zeros"] > 5
    assert thin["empty"] == thin["by_common"], "without a score of its own the common expert has the empty rows alone"
    assert beside["by_common"] > 50, "experts from random weights are worse than the common expert at first"
