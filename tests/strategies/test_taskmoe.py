"""TaskMoE in whole small runs: who trains whose head, what is averaged, who is served by which, what it costs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedmoe.errors import SettingsError
from fedmoe.federation.heads import HEADS, KEYS
from fedmoe.flower.replies import Replies
from fedmoe.moe.vectors import load_vector
from fedmoe.personal import Personalizer
from fedmoe.recording.checkpoints import load_checkpoint, newest_checkpoint
from strategies.taskmoe import TaskMoE
from tests.small import run_small, small_config

DOMAINS = {"clients.partition": "domain", "clients.domains": "identity,rotate90,negative"}
TASKS = {"strategy.taskmoe.heads": "task", **DOMAINS}
ROUNDS = 3


def run(place: Path, **settings: Any) -> Path:
    config = small_config(num_server_rounds=ROUNDS) | {"strategy.name": "taskmoe", "evaluate.ema": 0.0}
    return run_small(place, settings=config | {key.replace("__", "."): value for key, value in settings.items()})


def extras(folder: Path) -> dict[str, np.ndarray]:
    path = newest_checkpoint(next(found.parent.parent for found in folder.rglob("checkpoints/*")))
    assert path is not None
    arrays = load_checkpoint(path).arrays
    return {name.removeprefix("extra/"): array for name, array in arrays.items()}


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in next(folder.rglob("rounds.jsonl")).read_text().splitlines()]


def test_a_head_is_moved_by_its_own_client_alone_and_the_others_follow_the_gate(tmp_path: Path) -> None:
    folder = run(tmp_path)
    kept, trained = extras(folder), {client for line in lines(folder) for client in line["clients"]}
    heads_HP, keys_HD = kept[HEADS], kept[KEYS]
    known = set(np.flatnonzero(~np.isnan(keys_HD).any(axis=1)))
    assert known == trained
    assert 0 < len(trained) < len(heads_HP)
    for client in range(len(heads_HP)):
        assert np.array_equal(heads_HP[client], kept["gate"]) == (client not in trained)
    assert len({heads_HP[client].tobytes() for client in trained}) == len(trained)


@pytest.mark.parametrize("heads", ["client", "task"])
def test_both_trainers_give_the_same_heads(tmp_path: Path, heads: str) -> None:
    both = [
        extras(run(tmp_path / kind, train__trainer=kind, **(TASKS if heads == "task" else {})))
        for kind in ("loop", "stacked")
    ]
    for name in (HEADS, KEYS, "gate", "expert/0"):
        np.testing.assert_allclose(both[0][name], both[1][name], rtol=0, atol=2e-5)


def test_the_head_of_a_task_is_the_mean_over_its_clients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[TaskMoE, Replies, Any]] = []
    merge = TaskMoE.merge

    def noted(self: TaskMoE, round_num: int, state: Any, updates: Replies) -> Any:
        merged = merge(self, round_num, state, updates)
        seen.append((self, updates, merged))
        return merged

    monkeypatch.setattr(TaskMoE, "merge", noted)
    run(tmp_path, **TASKS)
    assert len(seen) == ROUNDS
    for strategy, replies, merged in seen:
        population = strategy.federation.population
        clients = [update.client_id for update in replies.updates]
        homes = {client: int(population.domain_N[population.shards[client][0]]) for client in clients}
        assert len(merged.extras[HEADS]) == 3
        for task in set(homes.values()):
            own = [update for update in replies.updates if homes[update.client_id] == task]
            total = sum(update.weight * update.gate.astype(np.float64) for update in own)
            expected = total / sum(update.weight for update in own)
            np.testing.assert_allclose(merged.extras[HEADS][task], expected, rtol=0, atol=1e-6)


def test_an_unseen_client_is_served_by_the_nearest_head_or_by_that_of_its_task(tmp_path: Path) -> None:
    for told in (False, True):
        folder = run(tmp_path / str(told), strategy__taskmoe__told=told, **TASKS)
        personalizer, kept = Personalizer(folder), extras(folder)
        population = personalizer._preparation.population
        table = personalizer._preparation.table.embeddings
        for number, client in enumerate(population.unseen):
            mean_D = table[population.shards[client]].mean(axis=0)
            near = int(np.argmin(np.square(kept[KEYS] - mean_D).sum(axis=1)))
            row = int(population.domain_N[population.shards[client][0]]) if told else near
            gate = personalizer.trained.empty_gate()
            load_vector(gate, kept[HEADS][row])
            scores_BM = gate.eval().scores(personalizer._store.load(population.shards[client]).gate_input)
            weights_BM = scores_BM.detach().softmax(dim=1).numpy()
            found = personalizer.client(number)
            columns = np.argsort(found.experts)
            np.testing.assert_allclose(found.weights[:, columns], weights_BM, rtol=0, atol=1e-5)


def test_the_ledger_counts_the_gate_both_ways_and_the_mean_once(tmp_path: Path) -> None:
    folder = run(tmp_path)
    ledger, asked = Personalizer(folder).trained.ledger, set()
    width = extras(folder)[KEYS].shape[1]
    for line in lines(folder):
        clients, fresh = set(line["clients"]), set(line["clients"]) - asked
        asked |= clients
        model = 4 * (ledger.gate_size + ledger.num_experts * ledger.expert_size)
        assert line["bytes"]["down"] == len(clients) * model
        assert line["bytes"]["up"] == len(clients) * model + 4 * width * len(fresh)
        assert "rankings" not in line
    assert len(asked) < ROUNDS * len(clients), "some client came twice, and told its mean once"
    summary = json.loads((folder / "summary.json").read_text())
    assert ledger.common_size > 0
    assert summary["unseen"]["accuracy_mean"] > 0


def test_tasks_need_domains(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"heads='task' takes a client's domain"):
        run(tmp_path, strategy__taskmoe__heads="task")
