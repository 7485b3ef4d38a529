"""The small version of the federated experiment with clients that tune their own rate of dropout."""

import pytest

from benchmarks.theory.noisy_digits import DOMAINS
from benchmarks.theory.self_tuning_federated import measure


def test_clients_rates_go_their_own_ways_and_stay_where_none_is_tuned() -> None:
    tuned, left = (measure(row, 0, True) for row in ("tuned from 0.6", "left at 0.6"))
    plenty, few, wrong = (tuned[f"rate/{name}"] for name in DOMAINS)
    assert plenty < 0.6 < wrong, "less dropout where labels are right, more where they are not"
    assert plenty < few < wrong
    assert not any(name.startswith("rate/") for name in left)
    for name in ("seen", "unseen"):
        assert left[name] > 80
        assert tuned[name] == pytest.approx(left[name], abs=3), "twelve rounds of tuning cost next to nothing"
