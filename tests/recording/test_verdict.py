"""Laws of the answer in words: it says what the figures say, and a gap under one point is a tie."""

from pathlib import Path

import pytest

from fedmoe.recording.run_record import RunRecord
from fedmoe.recording.verdict import compare, verdict
from tests.recording.fake_run import fake_rounds

EXPERTS, DENSE = fake_rounds(num_rounds=1), fake_rounds("fedavg", 1, num_experts=1)


def record(methods, main="fedjets"):
    rounds = {name: DENSE if name in ("fedavg", "fedprox") else EXPERTS for name in methods if name != "common expert"}
    settings = {"seed": 0}
    shared = {"path": Path("/run"), "settings": settings, "environment": {}, "partition": {}}
    return RunRecord(main=main, rounds={main: EXPERTS} | rounds, summary={"methods": methods}, **shared)


def told(plain, corrected=None, **more):
    figures = {"zero_shot": {"mean": plain, "worst_decile": 0.4}, **{k: {"mean": v} for k, v in more.items()}}
    return figures | ({} if corrected is None else {"zero_shot_em": {"mean": corrected}})


@pytest.mark.parametrize("other", [n / 10_000 for n in range(4_870, 5_131, 3)])
def test_a_gap_under_one_point_is_a_tie_whichever_way_it_is_read(other):
    outcome = compare(0.5, other)
    assert outcome == -compare(other, 0.5)
    assert (outcome == 0) is (float(f"{100 * abs(other - 0.5):.1f}") < 1.0)


@pytest.mark.parametrize(
    ("mine", "theirs", "word"),
    [
        (0.70, 0.60, "wins"),
        (0.605, 0.60, "ties for the first place"),
        (0.60, 0.605, "ties"),
        (0.6, 0.7, "does not win"),
    ],
)
@pytest.mark.parametrize("rival", ["fedavg", "fedprox", "common expert"])
def test_the_headline_says_who_wins_against_the_best_rival(mine, theirs, word, rival):
    name = "plain" if rival == "common expert" else "zero_shot"
    rivals = {"fedavg": told(0.1), "fedprox": told(0.1), "common expert": {"plain": {"mean": 0.1}}}
    rivals[rival] = {name: {"mean": theirs}}
    headline, grounds, _ = verdict(record({"fedjets": told(mine), **rivals}))
    assert headline.startswith(f"FedJETs {word}")
    assert f"({100 * theirs:.1f} %)" in grounds[0]
    assert ("a tie with" in grounds[0]) is (abs(mine - theirs) < 0.0099)


def test_winning_before_and_losing_after_correction_are_both_said():
    figures = {"fedjets": told(0.8, 0.82), "fedavg": told(0.6, 0.9)}
    headline, grounds, _ = verdict(record(figures))
    assert headline == "FedJETs wins without prior correction, and does not win with it."
    assert "20.0 points above FedAvg" in grounds[0]
    assert "8.0 points below FedAvg" in grounds[1]
    assert "highest figure is that of FedAvg with prior correction, 90.0 %; FedJETs at its best is 8.0" in grounds[2]


def test_the_highest_figure_may_be_the_mixtures_but_never_the_bound():
    figures = {"fedjets": told(0.8, 0.82, mixture_em=0.95, best_expert=0.99), "fedavg": told(0.6, 0.945)}
    _, grounds, remarks = verdict(record(figures))
    assert "FedJETs by its mixture with prior correction, 95.0 %, a tie with the best of the others" in grounds[2]
    assert any("in hindsight" in remark and "99.0 %" in remark for remark in remarks)


@pytest.mark.parametrize("methods", [{"fedavg": told(0.6)}, {"fedjets": {"zero_shot": {"mean": None}}}])
def test_without_figures_there_is_no_winner(methods):
    headline, grounds, remarks = verdict(record(methods))
    assert headline == "FedJETs has not been tested on unseen clients yet."
    assert not grounds
    assert not remarks


def test_alone_there_is_no_winner_either():
    headline, _, _ = verdict(record({"fedjets": told(0.8, 0.9)}))
    assert headline == "FedJETs reaches 80.0 % on clients that it never saw."
