"""What a run says beside accuracy and bytes, on the screen and in summary and report."""

import json
from pathlib import Path

from fedmoe.recording.remarks import Remarks
from tests.small import rounds_of, run_small, small_config


def test_figures_of_prefetching_add_up_over_rounds() -> None:
    remarks = Remarks()
    for judged, hits in ((0, 0), (10, 9), (30, 21)):
        told = {"judged": judged, "hits": hits, "bytes_ahead": 1000 * judged, "bytes_wasted": 1000 * (judged - hits)}
        remarks.add({"round": 1, "prefetch": told})
    assert remarks.texts({}) == ["sent a round ahead: 40 kB, of it wasted 10 kB; hits: 75.0 %"]


def test_where_nobody_chooses_anew_there_are_no_hits_to_tell() -> None:
    remarks = Remarks()
    remarks.add({"round": 2, "prefetch": {"judged": 0, "hits": 0, "bytes_ahead": 3000, "bytes_wasted": 0}})
    assert remarks.texts({}) == ["sent a round ahead: 3 kB, of it wasted 0 B; nobody chose anew"]


def test_a_life_of_many_events_is_cut_short() -> None:
    remarks = Remarks()
    for number in range(15):
        remarks.add({"round": number, "life_cycle": {"events": [[0, "next"]]}})
    (text,) = remarks.texts({})
    assert text.startswith("life cycle: expert 0 another candidate (round 0), expert 0")
    assert text.endswith("another candidate (round 11), and 3 events more, in rounds.jsonl")


def test_plain_rounds_have_no_remarks() -> None:
    remarks = Remarks()
    remarks.add({"round": 1, "bytes": {"down": 3}})
    assert remarks.texts({"methods": {}}) == []


def test_a_run_says_what_is_particular_about_it(tmp_path: Path, capsys) -> None:
    config = small_config(strategy__name="prefetch", evaluate__seen=2, evaluate__attack_eps=0.1, num_server_rounds=4)
    run = run_small(tmp_path, settings=config)
    said = capsys.readouterr().out
    (texts,) = json.loads((run / "summary.json").read_text())["remarks"].values()
    ahead, attack, seen = texts
    hits = sum(line["prefetch"]["hits"] for line in rounds_of(run))
    judged = sum(line["prefetch"]["judged"] for line in rounds_of(run))
    assert judged
    assert ahead.endswith(f"hits: {100 * hits / judged:.1f} %")
    robust = rounds_of(run)[-1]["evaluate"]["robust"]
    assert f"zero-shot {100 * robust['zero_shot']['mean']:.1f} %" in attack
    assert attack.endswith(f"routed anew: {100 * robust['flips']['mean']:.1f} %")
    assert seen.startswith("training clients: zero-shot ")
    assert all(text in said for text in texts)
