"""The ceilings: a look's model learns its look from all its clients, and only regimes with looks have one."""

import pytest
import torch

from benchmarks.ceilings import Ceiling, ceiling_of, main, table, trained
from benchmarks.groups import looks, prepared
from benchmarks.regime_cells import Cell
from benchmarks.regime_grid import METHODS, REGIMES
from fedmoe.errors import SettingsError

SMALL = "data.name='clusters' clients.num=20 clients.samples=40 data.public-samples=100 common-expert.epochs=2"


def test_a_looks_model_is_better_at_its_look_than_the_common_expert_that_it_starts_from() -> None:
    preparation = prepared(REGIMES["rotated"], 1, "", "", [f"{SMALL} num-server-rounds=20"])
    population, home = preparation.population, looks(preparation)
    found = ceiling_of("rotated", preparation)
    ids = [population.shards[client] for client in population.unseen]
    alone = [
        (torch.from_numpy(preparation.table.logits[own]).argmax(1) == preparation.store.y(own)).double().mean()
        for own in ids
    ]
    assert found.plain > float(sum(alone) / len(alone)) + 0.05
    assert 0 <= found.corrected <= 1
    assert len(set(home.tolist())) == 5


def test_what_is_served_is_the_moving_average_over_rounds_from_the_common_expert_on() -> None:
    def after(rounds: int, steps: int, more: str = "") -> torch.Tensor:
        settings = f"{SMALL} num-server-rounds={rounds} {more}"
        preparation = prepared(REGIMES["rotated"], 1, "", "", [settings])
        model = trained(preparation, preparation.population.shards[0], steps, 0)
        return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])

    preparation = prepared(REGIMES["rotated"], 1, "", "", [SMALL])
    start = torch.cat([parameter.detach().flatten() for parameter in preparation.common.expert.parameters()])
    torch.testing.assert_close(after(1, 3, "train.learning-rate=1e-9"), start, atol=1e-6, rtol=0)
    first, both = after(1, 3), after(1, 6)  # one stream: six steps are two rounds of three
    assert (first - start).abs().max() > 1e-3
    torch.testing.assert_close(after(2, 3), 0.9 * first + 0.1 * both, atol=1e-6, rtol=1e-5)


def test_the_table_has_a_line_a_regime() -> None:
    own = [Ceiling("rotated", 1, 0.5, 0.75), Ceiling("rotated", 2, 0.7, 0.75), Ceiling("rotated-4", 1, 0.1, 0.2)]
    assert table(own)[2:] == [
        "| look: rotations, negative | 60.0 ± 14.1 | 75.0 ± 0.0 |  |  | 2 |",
        "| look x 4 labels | 10.0 | 20.0 |  |  | 1 |",
    ]


def test_differences_are_paired_by_seed_with_a_map_that_holds_all_seeds() -> None:
    def cells(seed: int, **of: float) -> list[Cell]:
        named = {**dict.fromkeys(METHODS, 0.1), **of}
        ways = {method: "zero_shot_guarded" if method == "fedprints" else "em" for method in named}
        return [Cell("rotated", seed, method, ways[method], accuracy, 1.0) for method, accuracy in named.items()]

    known = [*cells(1, fedprints=0.70, fedjets=0.60), *cells(2, fedprints=0.66, fedjets=0.62), *cells(3)]
    own = [Ceiling("rotated", seed, 0.5, corrected) for seed, corrected in ((2, 0.70), (1, 0.74))]
    assert " | +4.0 [+4.0, +4.0] | +11.0 [-27.1, +49.1] | 2 |" in table(own, known)[2]
    assert "|  |  | 2 |" in table(own, cells(1))[2]
    assert " | +4.0 | +14.0 | 1 |" in table(own[1:], known)[2]


@pytest.mark.parametrize("only", ["^iid$", "^concept$", "^rotated", "^(iid|rotated)$"])
def test_a_regime_without_looks_or_of_heads_has_no_ceiling(only: str) -> None:
    with pytest.raises(SettingsError, match="several looks"):
        main(["--only", only])


@pytest.mark.slow
def test_the_command_tells_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--seeds", "1", "--only", "^rotated$", "-c", f"{SMALL} num-server-rounds=1"])
    assert "| look: rotations, negative |" in capsys.readouterr().out
