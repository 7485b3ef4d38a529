"""How clients are trained is recorded: what was chosen before the first round, and what had to go to the loop since."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

import fedmoe.flower.node as node_module
from fedmoe.federation.job import ClientJob, Term
from fedmoe.flower.strategy import ExpertStrategy
from fedmoe.recording.wording import trainer_text
from fedmoe.training.objectives.dense import Dense
from fedmoe.training.speed import TrainerChoice
from tests.small import newest_bytes, run_small, small_config
from tests.training.test_choice import ReadsBack

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
        assert "; a kind of job one after another (as one program: RuntimeError" in trainer_text(written)
        bytes_of.add(newest_bytes(run))
    assert len(bytes_of) == 1


@pytest.mark.parametrize("name", ["FedAvg", "FedProx", "FedAdam"])
def test_a_plain_strategy_s_trainer_is_chosen_once_for_all_nodes_and_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    asked = list[list[ClientJob]]()
    trained_by = set[str]()
    real = node_module.Node.train

    def measured(place: Any, jobs: list[ClientJob], *_: Any, **__: Any) -> TrainerChoice:
        asked.append(jobs)
        return TrainerChoice(kind="stacked", width=3 + len(asked))

    def train(node: Any, order: Any, arrays: Any) -> Any:
        trained_by.add(json.dumps(order["trainer"]))
        return real(node, order, arrays)

    monkeypatch.setattr(node_module, "choose_trainer", measured)
    monkeypatch.setattr(node_module.Node, "train", train)
    config = small_config(train__trainer="auto", evaluate__baselines="")
    config |= {"strategy.name": f"flwr.serverapp.strategy:{name}"}
    if name == "FedProx":
        config["strategy.flwr-fedprox.proximal-mu"] = 0.5
    run = run_small(tmp_path, nodes=2, settings=config)
    written = json.loads((run / "trainer.json").read_text())
    assert (written["kind"], written["width"], len(asked)) == ("stacked", 4, 1)
    assert [json.loads(choice) for choice in trained_by] == [written]
    assert {job.client_id % 2 for job in asked[0]} == {0}, "the first node's own clients"
    assert (len(asked[0][0].objective) == 2) == (name == "FedProx")


@pytest.mark.usefixtures("stacks")
def test_a_plain_strategy_s_looped_kinds_are_recorded_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Dense, "__call__", ReadsBack.__call__)
    config = small_config(train__trainer="auto", clients__min_completed=1.0, evaluate__baselines="")
    run = run_small(tmp_path, settings=config | {"strategy.name": "flwr.serverapp.strategy:FedAvg"})
    (why,) = json.loads((run / "trainer.json").read_text())["looped"].values()
    assert "item()" in why


def test_a_plain_strategy_that_is_begun_again_keeps_its_trainer(tmp_path: Path) -> None:
    config = small_config(train__trainer="auto", evaluate__baselines="")
    config |= {"strategy.name": "flwr.serverapp.strategy:FedAvg"}
    run = run_small(tmp_path, settings=config)
    whole, begun = newest_bytes(run), json.loads((run / "trainer.json").read_text())
    (kept,) = (tmp_path / "home" / "cache" / "trainers").iterdir()
    kept.unlink()
    begun["known"] = True  # it is not chosen again, and so not written again
    (run / "trainer.json").write_text(json.dumps(begun))
    (run / "checkpoints" / "round-000003.safetensors").unlink()
    run_small(tmp_path, settings=config | {"resume": str(run)})
    assert newest_bytes(run) == whole
    assert json.loads((run / "trainer.json").read_text()) == begun
    assert not kept.exists()
