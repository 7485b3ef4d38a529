"""The small version of AdaMoLE's experiment: bytes of low-rank experts, and fewer active ones by a higher threshold."""

from benchmarks.theory.adamole import EXPERTS, ROWS, measure


def test_low_rank_experts_cost_a_part_of_the_bytes_and_the_threshold_thins_them_out() -> None:
    found = {row: measure(row, 0, True) for row in ROWS if "3/(2M)" not in row and "2/M" not in row}
    whole, low = found["whole experts, gate `mlp`"], found["low rank, gate `mlp`"]
    assert low["megabytes"] < 0.45 * whole["megabytes"]
    assert whole["active"] == low["active"] == EXPERTS
    swept = [found[f"low rank, threshold up to {largest}"] for largest in ("1/(2M)", "1/M", "1")]
    active = [run["active"] for run in swept]
    assert active == sorted(active, reverse=True)
    assert active[0] > 4 > 1 > active[-1]
    assert [run["empty"] for run in swept[:2]] == [0, 0], "up to 1/M each sample has an expert"
    assert swept[-1]["by_common"] > 50
    assert abs(swept[-1]["zero_shot"] - swept[-1]["common"]) < 3
