"""The small version of TaskMoE's federated experiment: labels that mean something else in each group of clients."""

import pytest

from benchmarks.theory.task_moe_federated import measure


@pytest.mark.slow
def test_heads_of_tasks_settle_what_a_shared_gate_cannot() -> None:
    shared, told = (
        measure(row, 0, True)
        for row in ("`fedmix`, shared gate", "`taskmoe`, the same, unseen clients tell their task")
    )
    for kind in ("seen", "unseen"):
        assert shared[f"alike/{kind}"] < 45, "groups that look alike leave a compromise"
        assert told[f"alike/{kind}"] > shared[f"alike/{kind}"] + 8
        assert shared[f"differ/{kind}"] > shared[f"alike/{kind}"] + 10, "where groups look different inputs tell them"
