import pytest

from benchmarks.measurement import interleave, summary, turns


def test_all_sides_take_turns_and_each_begins_once():
    order = []

    def side(name):
        def go():
            order.append(name)
            return float(len(order))

        return go

    told = []
    seconds = interleave({n: side(n) for n in "abc"}, 3, lambda *turn: told.append(turn))
    assert "".join(order) == "abcbcacab"
    assert seconds == {"a": [1.0, 6.0, 8.0], "b": [2.0, 4.0, 9.0], "c": [3.0, 5.0, 7.0]}
    assert told[3] == (2, "b", 4.0)
    assert turns(["a", "b"], 4) == ["a", "b"]


def test_the_summary_has_medians_and_paired_ratios():
    rows = summary({"ours": [1.0, 3.0, 2.0], "peer": [4.0, 3.0, 8.0]}, 10, "ours")
    assert rows["ours"]["times_as_fast"] == rows["ours"]["times_as_fast_min"] == rows["ours"]["times_as_fast_max"] == 1
    peer = rows["peer"]
    assert (peer["seconds_median"], peer["seconds_min"], peer["seconds_max"]) == (4.0, 3.0, 8.0)
    assert peer["per_second"] == 2.5
    assert peer["times_as_fast"] == 2.0  # the ratio of the medians, which is not the median of the ratios
    assert (peer["times_as_fast_min"], peer["times_as_fast_max"]) == (1.0, 4.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: interleave({"a": lambda: 1.0}, 1), "at least 2 repetitions, got 1 and 1"),
        (lambda: interleave({}, 5), "got 0 and 5"),
        (lambda: summary({"a": [1.0]}, 1, "ours"), "'ours' must be one of the sides, got a"),
        (lambda: summary({"a": [1.0], "b": [1.0, 2.0]}, 1, "a"), "as many turns"),
        (lambda: summary({"a": [0.0]}, 1, "a"), "above 0"),
    ],
)
def test_what_says_nothing_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
