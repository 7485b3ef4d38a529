"""The tables that the run folder keeps of its clients."""

import csv
import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest

import fedmoe.flower.results as results
from fedmoe.data.population import Population, build_population
from fedmoe.flower.results import client_table, partition_table
from fedmoe.recording.heatmaps import draw_partition
from fedmoe.recording.outcome import Outcome
from fedmoe.recording.run_folder import RunFolder
from tests.small import NUM_CLASSES, blobs, small_settings

ANCHORS = 3


def prepared(seed: int = 0, **changes: Any) -> Any:
    """Returns as much of a preparation as the tables need."""
    settings = small_settings(seed=seed, clients__num=50, clients__unseen=20, **changes)
    data = blobs(None)
    population = build_population(data, settings)
    return SimpleNamespace(
        population=population, settings=settings, partition="hash", data=SimpleNamespace(dataset=data)
    )


def counts_of(population: Population, client: int) -> list[int]:
    return np.bincount(population.labels_N[population.shards[client]], minlength=NUM_CLASSES).tolist()


@pytest.mark.parametrize(
    ("listed", "normal", "unseen"), [(500, 47, 20), (47, 47, 20), (46, 24, 20), (7, 7, 7), (1, 1, 1)]
)
def test_a_partition_lists_all_anchors_and_others_at_even_steps(listed: int, normal: int, unseen: int) -> None:
    preparation = prepared()
    with mock.patch.object(results, "LISTED", listed):
        table = partition_table(preparation)
    clients = table["clients"]
    assert clients == sorted(set(clients))
    assert clients[:ANCHORS] == list(range(ANCHORS))
    assert sum(ANCHORS <= client < 50 for client in clients) == normal
    assert sum(client >= 50 for client in clients) == unseen
    assert table["counts"] == [counts_of(preparation.population, client) for client in clients]
    assert (table["num_training"], table["num_unseen"], len(table["anchors"])) == (50, 20, ANCHORS)
    assert table == json.loads(json.dumps(table))


@pytest.mark.parametrize("listed", [500, 7])
def test_the_picture_shows_the_clients_that_are_listed_and_says_of_how_many(listed: int) -> None:
    preparation = prepared()
    with mock.patch.object(results, "LISTED", listed):
        table = partition_table(preparation)
    axes = draw_partition(SimpleNamespace(partition=table)).axes[0]  # type: ignore[arg-type,union-attr]
    assert np.asarray(axes.images[0].get_array()).T.tolist() == table["counts"]
    words = {text.get_text() for text in axes.texts}
    few = {"3 anchors", "7 of 47 normal clients", "7 of 20 unseen"}
    assert words == (few if listed == 7 else {"3 anchors", "47 normal clients", "20 unseen"})
    older = {key: table[key] for key in ("counts", "num_training", "anchors", "classes")}
    if listed == 500:  # before, all clients stood there, without a list of their ids
        drawn = draw_partition(SimpleNamespace(partition=older)).axes[0]  # type: ignore[arg-type,union-attr]
        assert {text.get_text() for text in drawn.texts} == words


def outcome(took_part: dict[int, int], unseen: list[int], **figures: float) -> Outcome:
    rows = [{"client_id": client, "experts": [client % 3], "examples": 9, **figures} for client in unseen]
    return Outcome(seconds=(), down=0, up=0, failures=0, took_part=took_part, evaluation={"clients": rows})


@pytest.mark.parametrize("seed", range(3))
def test_every_client_has_its_row(tmp_path: Path, seed: int) -> None:
    preparation = prepared(seed)
    population, unseen = preparation.population, list(range(50, 70))
    outcomes = {
        "ours": outcome({0: 2, 7: 1}, unseen[:-1], zero_shot=0.5, mixture=0.25),
        "other": outcome({}, unseen, zero_shot=0.75),
    }
    common = {client: {"plain": 0.125, "em": 1.0} for client in unseen}
    columns, rows = client_table(preparation, outcomes, common)
    assert not isinstance(rows, (list, tuple)), "rows are made one after another"
    RunFolder(tmp_path).write_clients(columns, rows)
    told = list(csv.DictReader(io.StringIO((tmp_path / "clients.csv").read_text())))
    held = ["client_id", "role", "labels", "examples", "rounds"]
    assert columns[:5] == held
    assert [int(row["client_id"]) for row in told] == list(range(70))
    for client, row in enumerate(told):
        counts = counts_of(population, client)
        assert json.loads(row["labels"]) == np.flatnonzero(counts).tolist()
        assert int(row["examples"]) == sum(counts)
        assert row["rounds"] == {0: "2", 7: "1"}.get(client, "0")
        assert row["role"] == ("anchor" if client < ANCHORS else "normal" if client < 50 else "unseen")
        served = [row[key] for key in ("common_expert.plain", "experts", "ours.zero_shot", "other.zero_shot")]
        if client < 50:
            assert served == [""] * 4
        elif client < 69:
            assert served == ["0.125", f"[{client % 3}]", "0.5", "0.75"]
        else:
            assert served == ["0.125", "", "", "0.75"], "the main method could not serve this one"
