"""The choice between the trainers: by figures, which are kept; what cannot be stacked is told."""

from dataclasses import asdict, replace
from typing import Any

import pytest
import torch

from fedmoe.data import storage
from fedmoe.federation.job import ClientFailure, ClientJob, Term
from fedmoe.recording.wording import trainer_text
from fedmoe.settings import TrainSettings
from fedmoe.training import speed, stacked
from fedmoe.training.choice import choose_trainer, forced_choice
from fedmoe.training.job_kind import kind_of
from fedmoe.training.loop import LoopTrainer
from fedmoe.training.objective import Batch, LocalModel
from fedmoe.training.sample_store import SampleStore
from fedmoe.training.speed import TrainerChoice, make_trainer
from fedmoe.training.stacked import StackedTrainer
from tests.training.test_trainers import MIXTURE, ROWS, Field, Row, check_equal, prepared, updates_of  # noqa: F401


@pytest.fixture
def field(prepared: Any) -> Field:  # noqa: F811
    ready: Field = prepared(Row((MIXTURE,), settings={"train.trainer": "auto"}))
    return ready


def fake(
    monkeypatch: pytest.MonkeyPatch, loop: float, stacked: dict[int, float], compiled: float = 0.0
) -> list[tuple[str, int]]:
    """Has the trainers take so many seconds; returns the list of what was tried."""
    tried: list[tuple[str, int]] = []

    def seconds(place: Any, candidate: TrainerChoice, jobs: Any, state: Any) -> float:
        tried.append(("compiled" if candidate.compiled else candidate.kind, candidate.width))
        if candidate.compiled:
            if not compiled:
                raise RuntimeError("no compiler here")
            return compiled
        assert len(jobs) == max(2, candidate.width)
        return loop if candidate.kind == "loop" else stacked[candidate.width]

    monkeypatch.setattr(speed, "_seconds_a_step", seconds)
    return tried


@pytest.mark.parametrize(
    ("loop", "stacked", "kind", "width"),
    [
        (1.0, {2: 0.6, 4: 0.2, 12: 0.1}, "stacked", 12),
        (1.0, {2: 0.6, 4: 0.2, 12: 0.25}, "stacked", 4),
        (0.1, {2: 0.6, 4: 0.2, 12: 0.1}, "loop", 0),
        (1.0, {2: 3.0, 4: 2.0, 12: 0.5}, "stacked", 12),
    ],
)
def test_the_faster_one_is_chosen(
    field: Field, monkeypatch: pytest.MonkeyPatch, loop: float, stacked: dict[int, float], kind: str, width: int
) -> None:
    fake(monkeypatch, loop, stacked)
    chosen = choose_trainer(field.place, field.jobs(ROWS["mixture"]), field.state)
    assert (chosen.kind, chosen.width, chosen.known) == (kind, width, False)
    assert {"trainer": "loop", "width": 0, "layout": "contiguous", "compiled": False, "seconds": loop} in chosen.figures


def test_much_slower_stacks_end_the_search(field: Field, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = fake(monkeypatch, 1.0, {2: 1.6, 4: 1.6})
    assert choose_trainer(field.place, field.jobs(ROWS["mixture"]), field.state).kind == "loop"
    assert tried == [("loop", 0), ("stacked", 2), ("stacked", 4)]


def test_figures_are_kept_and_used_again(field: Field, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = fake(monkeypatch, 1.0, {2: 0.5, 4: 0.4, 12: 0.3})
    jobs = field.jobs(ROWS["mixture"])
    first = choose_trainer(field.place, jobs, field.state)
    again = choose_trainer(field.place, jobs, field.state)
    assert len(tried) == 4
    assert again == replace(first, known=True)
    other = replace(field.place, settings=replace(field.place.settings, batch_size=5))
    assert not choose_trainer(other, jobs, field.state).known


@pytest.mark.parametrize(("compiled", "wins"), [(0.001, True), (0.4, False), (0.0, False)])
def test_compiling_is_tried_where_a_run_is_long(
    field: Field, monkeypatch: pytest.MonkeyPatch, compiled: float, wins: bool
) -> None:
    tried = fake(monkeypatch, 0.3, {2: 0.02, 4: 0.01, 12: 0.005}, compiled)
    jobs = field.jobs(ROWS["mixture"])
    assert not choose_trainer(field.place, jobs, field.state, rounds=3).compiled
    assert ("compiled", 12) not in tried
    long = choose_trainer(field.place, jobs, field.state, rounds=3000)
    assert tried.count(("compiled", 12)) == 1
    assert (long.kind, long.width, long.compiled) == ("stacked", 12, wins)
    assert choose_trainer(field.place, jobs, field.state, rounds=3000) == replace(long, known=True)
    assert not choose_trainer(field.place, jobs, field.state, rounds=3).compiled, "known figures do not make it pay"
    assert len(tried) == 5
    off = replace(field.place, settings=replace(field.place.settings, compile="off"))
    assert not choose_trainer(off, jobs, field.state, rounds=3000).compiled
    on = replace(field.place, settings=replace(field.place.settings, compile="on"))
    assert choose_trainer(on, jobs, field.state, rounds=1).compiled == wins
    assert not choose_trainer(replace(field.place, deterministic=True), jobs, field.state, rounds=3000).compiled


def test_a_measured_choice_has_figures_of_both(field: Field) -> None:
    chosen = choose_trainer(field.place, field.jobs(ROWS["mixture"]), field.state)
    assert {figure["trainer"] for figure in chosen.figures} == {"loop", "stacked"}
    assert all(0 < figure["seconds"] < 10 for figure in chosen.figures)
    assert chosen.clients == 12
    best = min(chosen.figures, key=lambda figure: figure["seconds"])
    assert (chosen.kind, chosen.width) == (best["trainer"], best["width"])


def test_the_kind_with_the_most_work_is_measured(field: Field, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[ClientJob] = []

    def seconds(place: Any, candidate: TrainerChoice, jobs: list[ClientJob], state: Any) -> float:
        seen.extend(jobs)
        return 1.0

    monkeypatch.setattr(speed, "_seconds_a_step", seconds)
    mixed = [*field.jobs(ROWS["anchor"])[:3], *field.jobs(ROWS["mixture"])[3:]]
    choose_trainer(field.place, mixed, field.state)
    assert seen
    assert all(job.objective == (MIXTURE,) for job in seen)


class ReadsBack:
    """An objective that reads a tensor back into Python: it cannot be mapped over clients."""

    def __call__(self, model: LocalModel, batch: Batch) -> torch.Tensor:
        loss = batch.mean(
            torch.nn.functional.cross_entropy(model.logits_KBC(batch.x_BCHW)[0], batch.y_B, reduction="none")
        )
        return loss * 2 if loss.item() > 1 else loss


READS_BACK = Row((Term("tests.training.test_choice:ReadsBack"),), held=1, gate=False)


def test_what_cannot_be_stacked_is_trained_in_the_loop_and_told(field: Field) -> None:
    chosen = choose_trainer(field.place, field.jobs(READS_BACK), field.state)
    assert chosen.kind == "loop"
    assert "item()" in next(figure["error"] for figure in chosen.figures if "error" in figure)
    assert "as one program they cannot be: RuntimeError" in trainer_text(asdict(chosen))


@pytest.mark.parametrize("width", [0, 1, 5])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_kind_that_cannot_be_stacked_is_trained_in_the_loop_beside_one_that_can(
    prepared: Any,  # noqa: F811
    caplog: pytest.LogCaptureFixture,
    seed: int,
    width: int,
) -> None:
    field = prepared(Row((MIXTURE,), settings={"train.trainer": "auto"}), seed)
    trainer = make_trainer(field.place, TrainerChoice(kind="stacked", width=width))
    assert isinstance(trainer, StackedTrainer)
    loop = LoopTrainer(field.place)
    usual, other = field.jobs(ROWS["mixture"]), field.jobs(READS_BACK)
    updates_of(trainer, usual, field.state)
    assert trainer.looped == {}
    mixed = [*other[:4], *usual[4:]]  # its first round
    got, wanted = updates_of(trainer, mixed, field.state), updates_of(loop, mixed, field.state)
    check_equal(wanted, got)
    for client in range(4):
        assert got[client].experts.keys() == wanted[client].experts.keys()
        for name, vector in wanted[client].vectors().items():
            assert got[client].vectors()[name].tobytes() == vector.tobytes()
    assert list(trainer.looped) == [kind_of(other[0])]
    check_equal(updates_of(loop, other, field.state), updates_of(trainer, other, field.state))
    assert sum("cannot be trained as one program" in record.message for record in caplog.records) == 1, "told once"


def test_a_kind_is_not_tried_as_one_program_again(field: Field, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, jobs = make_trainer(field.place, TrainerChoice(kind="stacked")), field.jobs(READS_BACK)
    updates_of(trainer, jobs, field.state)
    monkeypatch.setattr(stacked, "train_stack", lambda *_: pytest.fail("a stack was tried"))
    monkeypatch.setattr(stacked, "examine", lambda *_: pytest.fail("a stack was examined"))
    known = make_trainer(field.place, TrainerChoice(kind="stacked", looped={kind_of(jobs[0]): "it is known"}))
    for again in (trainer, known):
        assert len(updates_of(again, jobs, field.state)) == len(jobs)


def test_a_client_that_fails_in_the_loop_too_makes_nothing_of_its_kind(field: Field) -> None:
    trainer = make_trainer(field.place, TrainerChoice(kind="stacked"))
    row = Row((Term("tests.faulty:Fault", {"kind": "raise"}),))
    outcomes = list(trainer.train(field.jobs(row), field.state))
    assert len(outcomes) == 12
    assert all(isinstance(outcome, ClientFailure) and "cannot count" in outcome.error for outcome in outcomes)
    assert isinstance(trainer, StackedTrainer)
    assert trainer.looped == {}


def test_where_stacking_is_forced_what_cannot_be_stacked_fails_with_a_hint(prepared: Any) -> None:  # noqa: F811
    field = prepared(Row((MIXTURE,), settings={"train.trainer": "stacked"}))
    trainer = make_trainer(field.place, TrainerChoice(kind="stacked"))
    mixed = [*field.jobs(READS_BACK)[:3], *field.jobs(ROWS["mixture"])[3:]]
    outcomes = list(trainer.train(mixed, field.state))
    failures = [outcome for outcome in outcomes if isinstance(outcome, ClientFailure)]
    assert sorted(failure.client_id for failure in failures) == [0, 1, 2]
    assert all("item()" in failure.error and "train.trainer='auto'" in failure.error for failure in failures)


def test_speed_is_that_of_stacks_alone(field: Field) -> None:
    trainer = make_trainer(field.place, TrainerChoice(kind="stacked", looped={"any": "it is known"}), 1)
    assert isinstance(trainer, StackedTrainer)
    assert trainer.loop is None


def test_what_no_trainer_can_train_is_left_to_the_round(field: Field) -> None:
    row = Row((Term("tests.faulty:Fault", {"kind": "raise"}),))
    chosen = choose_trainer(field.place, field.jobs(row), field.state)
    assert chosen.kind == "loop"
    assert all("cannot count" in figure["error"] for figure in chosen.figures)
    assert not choose_trainer(field.place, field.jobs(row), field.state).known, "it is not kept"


def test_one_client_at_fault_says_nothing_of_a_trainer(field: Field, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs, real = field.jobs(ROWS["mixture"]), SampleStore.load
    largest = max((job.client_id for job in jobs), key=lambda client: len(field.place.population.shards[client]))
    bad = set(field.place.population.shards[largest].tolist())

    def load(store: SampleStore, ids: Any, *rest: Any, **named: Any) -> Any:
        if bad & set(ids.tolist()):
            raise OSError("the disk is gone")
        return real(store, ids, *rest, **named)

    monkeypatch.setattr(SampleStore, "load", load)
    chosen = choose_trainer(field.place, jobs, field.state)
    assert any("seconds" in figure for figure in chosen.figures if figure["trainer"] == "loop")
    assert any("seconds" in figure for figure in chosen.figures if figure["trainer"] == "stacked")


def test_a_damaged_cache_is_measured_anew(field: Field) -> None:
    jobs = field.jobs(ROWS["mixture"])
    choose_trainer(field.place, jobs, field.state)
    (kept,) = (storage.home() / "cache" / "trainers").iterdir()
    kept.write_text('[{"trainer"')
    assert not choose_trainer(field.place, jobs, field.state).known


@pytest.mark.parametrize(
    ("settings", "images", "kind"),
    [
        ({"trainer": "loop"}, False, "loop"),
        ({"trainer": "loop"}, True, None),
        ({"trainer": "loop", "layout": "channels-last"}, True, "loop"),
        ({"trainer": "stacked"}, True, None),
        ({"trainer": "stacked", "stack": 7}, True, "stacked"),
        ({"trainer": "stacked", "stack": 7, "compile": "on"}, True, "stacked"),
        ({}, False, None),
    ],
)
def test_settings_that_leave_no_doubt_are_not_measured(
    settings: dict[str, Any], images: bool, kind: str | None
) -> None:
    chosen = forced_choice(TrainSettings(**settings), images)
    assert (chosen and chosen.kind) == kind
    if kind == "stacked":
        assert chosen is not None
        assert chosen.width == 7


def test_a_choice_travels_as_json_and_makes_its_trainer(field: Field) -> None:
    for chosen, kind in [
        (TrainerChoice(kind="stacked", width=5, figures=({"trainer": "stacked", "seconds": 1.0},)), StackedTrainer),
        (TrainerChoice(kind="loop", layout="channels-last"), LoopTrainer),
    ]:
        assert TrainerChoice.from_json(asdict(chosen)) == chosen
        assert isinstance(make_trainer(field.place, chosen), kind)
