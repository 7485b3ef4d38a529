"""How clients are trained is recorded: what was chosen before the first round, and what had to go to the loop since."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

import fedmoe.flower.node as node_module
from fedmoe.federation.job import ClientJob, Term
from fedmoe.flower.strategy import ExpertStrategy
from fedmoe.training.speed import TrainerChoice
from tests.small import newest_bytes, run_small, small_config

LATER = 2


@dataclass
class OddLater(ExpertStrategy):
    """Federated averaging whose odd clients train from the second round on in a way that cannot be stacked."""

    def job(self, round_num: int, client_id: int, held: tuple[int, ...]) -> ClientJob:
        job = super().job(round_num, client_id, held)
        if round_num < LATER or client_id % 2 == 0:
            return job
        return replace(job, objective=(Term("tests.training.test_choice:ReadsBack"),), gate=False)


@pytest.fixture
def stacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has stacks measured as the faster ones."""
    chosen = TrainerChoice(kind="stacked")
    monkeypatch.setattr(node_module, "choose_trainer", lambda *_, **__: chosen)


@pytest.mark.usefixtures("stacks")
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_kind_that_cannot_be_stacked_fails_nobody_and_is_recorded(tmp_path: Path, seed: int) -> None:
    config = small_config(seed=seed, train__trainer="auto", clients__min_completed=1.0, evaluate__baselines="")
    config |= {"strategy.name": "tests.flower.test_trainer_record:OddLater"}
    bytes_of = set[bytes]()
    for nodes, workers in ((1, 1), (2, 1), (1, 2)):
        folder = tmp_path / f"{nodes}-{workers}"
        run = run_small(folder, nodes=nodes, settings=config | {"train.workers": workers}, home=tmp_path / "home")
        written = json.loads((run / "trainer.json").read_text())
        (kind,) = written["looped"]
        assert written["kind"] == "stacked"
        assert "ReadsBack" in kind
        assert "item()" in written["looped"][kind]
        bytes_of.add(newest_bytes(run))
    assert len(bytes_of) == 1
