"""Laws of the plots: what is drawn is what the files say, whatever is missing is said, and nothing global changes."""

import math

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure

from fedmoe.recording.curves import draw_accuracy, draw_bytes, draw_clients, draw_entropy, draw_load
from fedmoe.recording.gallery import GALLERY
from fedmoe.recording.heatmaps import draw_affinity, draw_assignment, draw_partition
from fedmoe.recording.plots import svg
from fedmoe.recording.run_record import dead_experts, read_run
from tests.recording.fake_run import NUM_UNSEEN, fake_rounds, fake_run


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    return read_run(fake_run(tmp_path_factory.mktemp("runs")).path)


def test_drawing_leaves_the_callers_style_alone(record):
    before = dict(mpl.rcParams)
    pictures = [exhibit.draw(record) for exhibit in GALLERY]
    svg(pictures[0])
    assert dict(mpl.rcParams) == before


def test_a_curve_goes_through_the_means(record):
    (line,) = [line for line in draw_accuracy(record).axes[0].lines if line.get_label() == "FedProx + prior correction"]
    means = {r["round"]: r["evaluate"]["methods"]["zero_shot_em"]["mean"] for r in record.evaluated("fedprox")}
    assert dict(zip(line.get_xdata(), line.get_ydata(), strict=True)) == {r: 100 * mean for r, mean in means.items()}


@pytest.mark.parametrize("num_rounds", [1, 7, 120, 121, 500])
def test_bars_add_up_to_the_loads_however_long_the_run(tmp_path, num_rounds):
    short = read_run(fake_run(tmp_path, num_rounds=1, baselines=(), finished=False).path)
    rounds = fake_rounds(num_rounds=num_rounds, every=1000)
    short.rounds["fedjets"][:] = rounds
    bars = draw_load(short).axes[0].patches
    assert len(bars) <= 5 * 120
    size = math.ceil(num_rounds / 120)
    last = (num_rounds - 1) % size + 1
    heights = np.array([bar.get_height() for bar in bars]).reshape(5, -1)
    drawn = size * heights[:, :-1].sum(axis=1) + last * heights[:, -1]
    assert drawn == pytest.approx(np.sum([line["load"] for line in rounds], axis=0))


def test_every_unseen_client_has_a_mark_for_each_method(record):
    marks = {dots.get_label(): dots.get_offsets() for dots in draw_clients(record).axes[0].collections}
    assert list(marks) == ["FedJETs", "FedAvg", "FedProx"]
    assert all(len(offsets) == NUM_UNSEEN for offsets in marks.values())
    heights = np.asarray(marks["FedJETs"])[:, 1]
    assert np.array_equal(heights, np.sort(heights))


def test_bytes_end_at_the_ledgers_total(record):
    line = draw_bytes(record).axes[0].lines[0]
    total = record.summary["bytes"]["down"] + record.summary["bytes"]["up"]
    assert np.asarray(line.get_ydata())[-1] * 1e6 == pytest.approx(total)


def test_the_affinity_only_reorders_classes(record):
    drawn = np.asarray(draw_affinity(record).axes[0].images[0].get_array())
    share = 100 * np.array(record.evaluated("fedjets")[-1]["evaluate"]["affinity"])
    assert sorted(map(tuple, drawn.T)) == sorted(map(tuple, share.T))
    leaders = drawn.argmax(axis=0)
    assert np.array_equal(leaders, np.sort(leaders))


def test_the_assignment_counts_the_rounds_of_each_client(record):
    drawn = np.asarray(draw_assignment(record).axes[0].images[0].get_array())
    held = [line["assignment"] for line in record.rounds["fedjets"]]
    clients = {client for assignment in held for client in assignment}
    assert drawn.shape == (5, len(clients))
    share = {
        client: [100 * np.mean([e in a[client] for a in held if client in a]) for e in range(5)] for client in clients
    }
    assert np.sort(drawn, axis=None) == pytest.approx(np.sort(list(share.values()), axis=None))
    assert np.array_equal(drawn[:, :5], 100 * np.eye(5))


def test_the_partition_shows_every_sample(record):
    drawn = np.asarray(draw_partition(record).axes[0].images[0].get_array())
    assert drawn.sum() == np.sum(record.partition["counts"])


def test_the_entropy_stays_below_that_of_no_choice(record):
    curve, most = draw_entropy(record).axes[0].lines
    assert max(curve.get_ydata()) < most.get_ydata()[0] == pytest.approx(math.log(5))


@pytest.mark.parametrize(
    ("flat", "missing"),
    [
        ({"num_experts": 1, "baselines": ()}, 4),
        ({"finished": False, "baselines": ()}, 0),
        ({"num_rounds": 0, "finished": False, "baselines": ()}, 7),
        ({"num_rounds": 3, "every": 1}, 0),
        ({"num_experts": 17, "num_rounds": 6}, 0),
    ],
)
def test_a_picture_or_a_sentence_never_a_stumble(tmp_path, flat, missing):
    found = read_run(fake_run(tmp_path, **flat).path)
    pictures = [exhibit.draw(found) for exhibit in GALLERY]
    sentences = [picture for picture in pictures if not isinstance(picture, Figure)]
    assert len(sentences) == missing
    assert all(sentence.endswith(".") for sentence in sentences)


def test_rounds_without_any_evaluation_give_sentences(tmp_path):
    found = read_run(fake_run(tmp_path, num_rounds=4, finished=False).path)
    for rounds in found.rounds.values():
        for line in rounds:
            line["evaluate"] = None
    found.partition.clear()
    missing = [exhibit.title for exhibit in GALLERY if isinstance(exhibit.draw(found), str)]
    assert len(missing) == 5


@pytest.mark.parametrize("expert", range(5))
def test_an_expert_is_dead_when_nobody_holds_it_any_more(expert):
    assert list(dead_experts(fake_rounds(dead=expert))) == [expert]
    rounds = fake_rounds()
    assert dead_experts(rounds) == {}
    for line in rounds[-10:]:
        line["load"][expert] = 0
    assert list(dead_experts(rounds)) == [expert]
    rounds[-10]["load"][expert] = 1
    assert dead_experts(rounds) == {}


def test_an_expert_is_dead_when_no_unseen_sample_goes_to_it():
    rounds = fake_rounds()
    late = [line["evaluate"] for line in rounds[-10:] if line["evaluate"]]
    for evaluation in late:
        evaluation["dispatch"][2] = 0.0
    assert list(dead_experts(rounds)) == [2]
    late[0]["dispatch"][2] = 0.01
    assert dead_experts(rounds) == {}


@pytest.mark.parametrize("rounds", [[], fake_rounds("fedavg", 20, num_experts=1)])
def test_without_a_choice_nothing_is_dead(rounds):
    assert dead_experts(rounds) == {}
