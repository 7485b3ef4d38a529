"""Guarded correction in a whole run: every method, the cold start, clients.csv, and a client served again."""

import csv
import json
from pathlib import Path

import pytest

from fedmoe.personal import Personalizer
from fedmoe.personal.wording import accuracy_rows
from tests.small import run_small, small_config

FLWR = "flwr.serverapp.strategy:FedAvg"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = small_config(
        num_server_rounds=2,
        evaluate__doubt=0.15,
        evaluate__cold_start="2,999",
        evaluate__baselines=f"fedavg,{FLWR}",
        evaluate__seen=2,
    )
    return run_small(tmp_path_factory.mktemp("run"), settings=settings)


def test_every_method_is_told_with_it(run: Path) -> None:
    summary = json.loads((run / "summary.json").read_text())
    for name, told in summary["methods"].items():
        ways = {"guarded"} if name == "common expert" else {"zero_shot_guarded"}
        assert ways <= set(told), name
    assert "mixture_guarded" in summary["methods"]["fedjets"]
    assert all("zero_shot_guarded" in told for told in summary["seen"].values())
    for name, by_size in summary["cold_start"].items():
        way = "guarded" if name == "common expert" else "zero_shot_guarded"
        assert all(way in told for told in by_size.values()), name
        assert by_size["999"][way] == summary["methods"][name][way], name
    with (run / "clients.csv").open(newline="") as file:
        columns = csv.DictReader(file).fieldnames or ()
    assert [column for column in columns if column.endswith("guarded")]


def test_a_client_served_again_gets_what_the_run_told(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDMOE_HOME", str(run.parents[1] / "home"))
    served = [Personalizer(run).client(number) for number in range(Personalizer(run).num_clients)]
    summary = json.loads((run / "summary.json").read_text())["methods"]
    for way in ("zero_shot_guarded", "mixture_guarded"):
        mean = sum(found.accuracies[way] for found in served) / len(served)
        assert mean == pytest.approx(summary["fedjets"][way]["mean"])
    mean = sum(found.accuracies["guarded"] for found in served) / len(served)
    assert mean == pytest.approx(summary["common expert"]["guarded"]["mean"])
    rows = [cells for _, cells in accuracy_rows(served[0])]
    assert [cells[0] for cells in rows if "guarded" in cells[1]] == ["before: common expert", *["after: FedJETs"] * 2]


def test_without_doubt_nothing_is_told_of_it(tmp_path: Path) -> None:
    run = run_small(tmp_path, settings=small_config(num_server_rounds=1))
    assert "guarded" not in (run / "summary.json").read_text()
