"""The small version of GG MoE's experiment: it learns a table, and the spread of its answers falls with the draws."""

import pytest
import torch

from benchmarks.theory.gumbel import ROWS, Blend, measure, spread_of_draws, told_errors
from benchmarks.theory.tables import TABLES, LabelledTable, labelled_table


@pytest.mark.parametrize("seed", [0, 1])
def test_it_learns_a_table_and_runs_federated(seed: int) -> None:
    found = measure("gate `gumbel`, tau 1", seed, True)
    assert found["wine"] > 80
    # four rounds of a run are few: one of the two is above chance (10 %), and anchors make a difference
    assert 15 < max(found["unseen/0"], found["unseen/5"]) <= 100
    assert found["unseen/0"] != found["unseen/5"]
    assert found["variance/1"] > 3 * found["variance/10"] > 9 * found["variance/100"]


@pytest.mark.parametrize("seed", range(3))
def test_the_variance_of_predictions_falls_with_the_draws(seed: int) -> None:
    table = labelled_table("wine", seed)
    torch.manual_seed(seed)
    model = Blend(ROWS["gate `gumbel`, tau 1"], 13, 3, seed)
    one, ten = (spread_of_draws(model, table.test[0], seed, draws, times=200) for draws in (1, 10))
    assert 8 < one / ten < 12.5


@pytest.mark.parametrize("seed", range(3))
def test_doubt_tells_errors_if_they_lie_where_the_gate_wavers(seed: int) -> None:
    table = labelled_table("wine", seed)
    torch.manual_seed(seed)
    model = Blend(ROWS["gate `gumbel`, tau 1"], 13, 3, seed).eval()
    x_BD, stream = table.test[0], torch.Generator().manual_seed(seed)
    with torch.no_grad():
        model.gate.layers[2].weight.mul_(8)  # at first a gate wavers everywhere alike
        answers_B = model(x_BD, stream).argmax(dim=1)
        scores_BM = model.gate.layers(x_BD)
    wavers_B = torch.softmax(scores_BM, dim=1).max(dim=1).values
    wrong_B = wavers_B < wavers_B.median()

    def told(shift_B: torch.Tensor) -> dict[str, float]:
        part = (x_BD, (answers_B + shift_B.long()) % 3)
        return dict(told_errors(model, LabelledTable(table.train, table.valid, part, 3), seed))

    assert told(wrong_B)["routing"] > 0.8
    assert told(~wrong_B)["routing"] < 0.2
    assert 0 <= told(wrong_B)["answer"] <= 1


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_dealt_out_once_and_scaled_by_what_is_trained_on(name: str) -> None:
    table = labelled_table(name, 3)
    x_ND, y_N = table.train
    spread_D = x_ND.std(dim=0, correction=0)
    torch.testing.assert_close(x_ND.mean(dim=0), torch.zeros(x_ND.shape[1]), rtol=0, atol=1e-4)
    assert (((spread_D - 1).abs() < 1e-3) | (spread_D == 0)).all()
    assert set(y_N.tolist()) == set(range(table.classes))
    sizes = [len(part[1]) for part in (table.train, table.valid, table.test)]
    assert abs(sizes[0] / sum(sizes) - 0.6) < 0.01
    assert not torch.equal(labelled_table(name, 4).train[0], x_ND)
