"""The small version of prefetching between rounds: the ranking exchange is gone, and what it costs is counted."""

import pytest

from benchmarks.theory.pre_gated_federated import ROWS, SMALL_ROUNDS, measure


@pytest.mark.parametrize("row", ROWS)
def test_a_round_is_one_exchange_where_experts_go_ahead(row: str) -> None:
    found, own = measure(row, 0, True), ROWS[row]
    both = own.over == "fedjets" and not own.version
    assert found["exchanges"] == (2 * SMALL_ROUNDS if both else SMALL_ROUNDS + 1)
    if not own.version:
        return
    assert 0 < found["ahead"] <= found["down"]
    if own.over == "fedjets":
        assert 40 < found["hits"] < 100
        assert (found["wasted"] == pytest.approx(found["ahead"], rel=0.1)) == (own.version == "latest")
    else:
        assert "hits" not in found, "groups do not change: nobody is asked again"
        assert (found["wasted"] == 0) == (own.version == "ahead")
