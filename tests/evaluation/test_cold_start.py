"""Laws of the cold start: a batch is served as a client is that has nothing else."""

import csv
import json
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch

from fedmoe.evaluation.serving import Serving
from fedmoe.evaluation.zero_shot import ClientResult, serve_clients
from fedmoe.recording.comparison import compare_runs
from fedmoe.recording.comparison_table import to_csv
from fedmoe.settings import from_flat
from fedmoe.training.samples import ClientSamples
from tests.evaluation.test_zero_shot import POOL, client, gate_of, pool
from tests.small import rounds_of, run_small, small_config

PRIOR = torch.tensor([0.55, 0.25, 0.15, 0.05], dtype=torch.float64)
SERVINGS = {
    "the best of two": Serving(top_k=2),
    "one expert, by vote": Serving(top_k=1, aggregation="vote"),
    "a mixture of logits, by mean logit": Serving(top_k=3, aggregation="mean-logit", output="logit", answer="mixture"),
    "the surest expert": Serving(top_k=2, by="confidence", aggregation="mean-logit"),
    "everything": Serving(top_k=POOL, hindsight=True),
}


def rows_of(samples: ClientSamples, rows: np.ndarray) -> ClientSamples:
    kept = torch.from_numpy(np.sort(rows))
    return replace(samples, images=samples.images[kept], y=samples.y[kept], gate_input=samples.gate_input[kept])


def serve(seed: int, samples: ClientSamples, serving: Serving, order: np.ndarray | None = None) -> ClientResult:
    gate = gate_of(seed, "uniform" if seed == 3 else "mlp")
    orders = () if order is None else (order,)
    (result,) = serve_clients(
        gate, pool(seed)[1], POOL, [samples], serving, PRIOR, [np.random.default_rng(seed)], orders
    )
    return result


@pytest.mark.parametrize("name", SERVINGS)
@pytest.mark.parametrize("seed", range(4))
def test_every_batch_is_served_as_if_the_client_had_nothing_else(seed: int, name: str) -> None:
    samples, order = client(seed, 50 + seed), np.random.default_rng(seed).permutation(50 + seed)
    serving = replace(SERVINGS[name], cold_start=(1, 7, 25))
    cold = serve(seed, samples, serving, order).cold
    assert list(cold) == ["1", "7", "25"]
    for size in serving.cold_start:
        right: dict[str, float] = {}
        for first in range(0, len(order), size):
            batch = rows_of(samples, order[first : first + size])
            for method, share in serve(seed, batch, SERVINGS[name]).accuracies.items():
                right[method] = right.get(method, 0) + round(share * len(batch))
        right.pop("best_expert", None)
        assert cold[str(size)] == pytest.approx({method: hits / len(order) for method, hits in right.items()})


@pytest.mark.parametrize("size", [60, 61, 10_000])
@pytest.mark.parametrize("name", SERVINGS)
@pytest.mark.parametrize("seed", range(4))
def test_as_many_samples_as_there_are_give_the_ordinary_figures(seed: int, name: str, size: int) -> None:
    samples, order = client(seed, 60), np.random.default_rng(seed).permutation(60)
    result = serve(seed, samples, replace(SERVINGS[name], cold_start=(size,)), order)
    ordinary = {method: share for method, share in result.accuracies.items() if method != "best_expert"}
    assert result.cold == {str(size): ordinary}
    assert replace(result, cold={}, seconds=0).accuracies == serve(seed, samples, SERVINGS[name]).accuracies
    assert (result.correct_MC is None) == ("best_expert" not in result.accuracies) == (name != "everything")


def test_at_most_so_many_samples_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedmoe.evaluation.cold_start.MOST_SAMPLES", 20)
    samples, order = client(0, 60), np.random.default_rng(0).permutation(60)
    serving = Serving(top_k=2, cold_start=(6,))
    first = rows_of(samples, order[:20])
    renumbered = np.argsort(np.argsort(order[:20]))
    assert serve(0, samples, serving, order).cold == serve(0, first, serving, renumbered).cold


def test_labels_are_counted_and_never_chosen_by() -> None:
    samples, order = client(1, 40), np.random.default_rng(1).permutation(40)
    wrong = replace(samples, y=(samples.y + 1) % 4)
    serving = Serving(top_k=1, cold_start=(1, 8))
    one, other = (serve(1, each, serving, order).cold for each in (samples, wrong))
    two = serve(1, replace(samples, y=(samples.y + 2) % 4), serving, order).cold
    three = serve(1, replace(samples, y=(samples.y + 3) % 4), serving, order).cold
    for size in ("1", "8"):
        for name in one[size]:
            assert sum(told[size][name] for told in (one, other, two, three)) == pytest.approx(1)


def test_the_sizes_are_read_in_order_and_once() -> None:
    assert from_flat({"evaluate.cold-start": " 100,1, 10,1,"}).evaluate.cold_start_sizes == (1, 10, 100)
    assert from_flat({}).evaluate.cold_start_sizes == ()


def test_a_run_tells_of_the_cold_start_in_its_last_round(tmp_path: Path) -> None:
    flower = "flwr.serverapp.strategy:FedAvg"
    config = small_config(
        num_server_rounds=4, evaluate__cold_start="1,5,999", evaluate__seen=2, evaluate__baselines=f"ifca,{flower}"
    )
    run = run_small(tmp_path / "one", settings=config, home=tmp_path / "home")
    other = run_small(tmp_path / "other", settings=config | {"evaluate.cold-start": ""}, home=tmp_path / "home")
    summary = json.loads((run / "summary.json").read_text())
    assert set(summary["cold_start"]) == {"fedjets", "ifca", "flwr_fedavg", "common expert"}
    assert summary["cold_start"]["common expert"]["999"] == summary["methods"]["common expert"]
    assert summary["cold_start"]["common expert"]["1"]["em"] != summary["methods"]["common expert"]["em"]
    for method, folder in (("fedjets", "."), ("ifca", "baselines/ifca"), ("flwr_fedavg", "baselines/flwr_fedavg")):
        *earlier, last = [line["evaluate"] for line in rounds_of(run / folder) if line["evaluate"]]
        assert earlier
        assert all("cold_start" not in evaluation for evaluation in earlier)
        told = last.pop("cold_start")
        assert told == summary["cold_start"][method]
        assert list(told) == ["1", "5", "999"]
        whole = {name: figures for name, figures in last["methods"].items() if name != "best_expert"}
        assert told["999"] == whole
        assert told["1"]["zero_shot_em"] != told["999"]["zero_shot_em"]
        if folder == "." or "ifca" in folder:
            assert last == rounds_of(other / folder)[-1]["evaluate"], "nothing else is touched"
    rows = {(row["method"], row["prediction"]): row for row in csv.DictReader(StringIO(to_csv(compare_runs([run]))))}
    ours = rows["FedJETs", "zero-shot + prior correction"]
    for size in ("1", "5", "999"):
        assert float(ours[f"cold_start_{size}"]) == summary["cold_start"]["fedjets"][size]["zero_shot_em"]["mean"]
    assert rows["FedJETs", "best single expert (bound)"]["cold_start_5"] == ""
    common = summary["cold_start"]["common expert"]["5"]["em"]["mean"]
    assert float(rows["Common expert", "with prior correction"]["cold_start_5"]) == common


@pytest.mark.parametrize("nodes", [1, 3])
def test_the_cold_start_does_not_depend_on_nodes(tmp_path: Path, nodes: int) -> None:
    config = small_config(num_server_rounds=2, evaluate__cold_start="3")
    runs = [run_small(tmp_path / str(n), settings=config, home=tmp_path / "home", nodes=n) for n in (2, nodes)]
    assert rounds_of(runs[0]) == rounds_of(runs[1])
