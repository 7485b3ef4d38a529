"""Laws of the TensorBoard files: what a round's line says is what TensorBoard shows, also after a resume."""

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fedmoe.errors import RunFolderError
from fedmoe.recording.run_folder import RunFolder
from fedmoe.recording.tensorboard import TensorBoardLogger
from tests.recording.fake_run import fake_header, fake_rounds, fake_summary


def shown(run, method, tag):
    events = EventAccumulator(str(run / "tensorboard" / method))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


def test_shows_each_method_apart(tmp_path):
    rounds = {"fedjets": fake_rounds(num_rounds=6), "my.lab:Method": fake_rounds("fedavg", 4, num_experts=1)}
    logger = TensorBoardLogger(tmp_path)
    logger.start(fake_header(RunFolder(tmp_path), stand_in=True))
    for method, lines in rounds.items():
        for line in lines:
            logger.round(method, line)
    logger.end(fake_summary(RunFolder(tmp_path), {"fedjets": rounds["fedjets"]}, True))
    for folder, lines in zip(("fedjets", "my.lab-Method"), rounds.values(), strict=True):
        expected = [(line["round"], pytest.approx(line["train"]["loss"])) for line in lines]
        assert shown(tmp_path, folder, "train/loss") == expected
    stability = [
        (line["round"], pytest.approx(line["evaluate"]["routing_stability"])) for line in rounds["fedjets"][4:]
    ]
    assert shown(tmp_path, "fedjets", "gate/routing stability") == stability
    assert shown(tmp_path, "fedjets", "gate/dead experts") == [(5, 0), (6, 0)]
    last = rounds["fedjets"][-1]["evaluate"]["methods"]["mixture"]["mean"]
    assert shown(tmp_path, "fedjets", "unseen mixture/mean")[-1] == (6, pytest.approx(last))


def test_a_resumed_run_hides_the_rounds_that_it_does_again(tmp_path):
    lines = fake_rounds(num_rounds=6)
    first = TensorBoardLogger(tmp_path)
    for line in lines[:5]:
        first.round("fedjets", {**line, "completed": -1})
    second = TensorBoardLogger(tmp_path, resumed_after={"fedjets": 3})
    for line in lines[3:]:
        second.round("fedjets", {**line, "completed": 1})
    for logger in (first, second):
        logger.end({"strategy": "fedjets"})
    assert [value for _, value in shown(tmp_path, "fedjets", "train/completed")] == [-1, -1, -1, 1, 1, 1]


def test_a_round_with_little_in_it_is_written_all_the_same(tmp_path):
    logger = TensorBoardLogger(tmp_path)
    logger.round("fedavg", {"round": 1, "train": {"loss": None}, "evaluate": None, "load": [3]})
    logger.end({"strategy": "fedavg"})
    assert shown(tmp_path, "fedavg", "train/failures") == [(1, 0.0)]


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "tensorboard").write_text("")
    with pytest.raises(RunFolderError, match="tensorboard"):
        TensorBoardLogger(tmp_path).round("fedavg", {"round": 1})
