"""The command at toy size; and that both sides do the same rounds."""

import json

import numpy as np
import pytest
import torch

from benchmarks import embeddings
from benchmarks.embedding_sides import ComputingStore, RoundSide, computing_node, settings_of
from benchmarks.workloads import work_named
from fedmoe.flower.crew import Crew
from fedmoe.flower.node import Node
from fedmoe.flower.preparation import prepare_run
from fedmoe.flower.wire import state_of
from fedmoe.settings import from_flat
from fedmoe.training.samples import Lots


def test_the_command_prints_a_table_and_writes_all_that_was_measured(tmp_path, capsys) -> None:
    file = tmp_path / "embeddings.json"
    embeddings.main(["--toy", "--repetitions", "2", "--workers", "2", "--json", str(file)])
    printed = capsys.readouterr()
    assert all(name in printed.out for name in embeddings.WORKS)
    assert "fj-mlp 2/2 kept: " in printed.err
    written = json.loads(file.read_text())
    assert written["benchmark"] == "embeddings"
    assert written["facts"] == {"toy": True, "repetitions": 2, "workers": 2}
    for name, result in written["results"].items():
        kept, computed = (result["sides"][side] for side in ("kept", "computed"))
        assert len(kept["seconds"]) == len(computed["seconds"]) == len(result["table"]["seconds"]) == 2
        assert computed["times_as_fast"] == pytest.approx(computed["seconds_median"] / kept["seconds_median"])
        saved, once = computed["seconds_median"] - kept["seconds_median"], result["table"]["seconds_median"]
        assert result["table"]["paid_after_rounds"] == (pytest.approx(once / saved) if saved > 0 else None)
        assert result["loss"]["kept"] == pytest.approx(result["loss"]["computed"], rel=1e-4), name


def test_both_sides_do_the_same_rounds_and_one_of_them_reads_no_table(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("FEDMOE_HOME", str(tmp_path / "home"))
    config = settings_of(work_named("fj-mlp", toy=True), tmp_path)
    settings = from_flat(config)
    preparation = prepare_run(settings, torch.device("cpu"), lambda text: None)
    nodes = [Node(settings, preparation.plan(), torch.device("cpu")) for _ in range(2)]
    store, table = computing_node(nodes[1], preparation.common.expert).store, nodes[0].store
    assert isinstance(store, ComputingStore)
    assert nodes[1].place.store is store
    assert len(store.embeddings) == 0
    ids = np.array([5, 40, 7])
    for reads in ("embedding", "group", "lot", None):
        one, two = (each.load(ids, reads, Lots(0, 2)) for each in (table, store))
        for name, tensor in vars(one).items():
            torch.testing.assert_close(getattr(two, name), tensor, msg=name)
        asked = [each.gate_input(ids, reads, Lots(0, 2)) for each in (table, store)]
        torch.testing.assert_close(*asked)
    sides = [RoundSide(config, preparation, Crew(node)) for node in nodes]
    before = state_of(sides[0].arrays)
    for _ in range(3):
        assert all(side.go() > 0 for side in sides)
    one, two = (state_of(side.arrays) for side in sides)
    for mine, other, old in zip(*((state.gate, *state.experts) for state in (one, two, before)), strict=True):
        np.testing.assert_allclose(mine, other, atol=1e-4)
        assert np.abs(mine - old).max() > 1e-3
    assert sides[0].accuracy == pytest.approx(sides[1].accuracy, abs=0.05)
    assert 0 <= sides[0].accuracy <= 1


@pytest.mark.parametrize("asked", [["--repetitions", "1"], ["--workers", "0"]])
def test_what_cannot_be_measured_is_refused(asked: list[str], capsys) -> None:
    with pytest.raises(SystemExit):
        embeddings.main(asked)
    assert "at least" in capsys.readouterr().err
