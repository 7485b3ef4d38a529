"""L1 over other strategies: nothing at strength 0; exact zeros otherwise, and bytes that are those of the vectors."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedmoe.federation.grouping import ClientPrint
from fedmoe.federation.job import ClientUpdate
from fedmoe.federation.merging import Sums
from fedmoe.federation.state import ServerState
from fedmoe.flower import orders
from tests.small import newest_state, rounds_of, run_small, small_config


def lasso(over: str, **arguments: Any) -> dict[str, Any]:
    own = {f"strategy.lasso.{name.replace('_', '-')}": value for name, value in arguments.items()}
    return {"strategy.lasso.over": over} | own


def cost(vector: np.ndarray) -> int:
    """The shortest of three encodings, written out."""
    there = vector != 0
    values = vector[there].tobytes()
    by_place = np.flatnonzero(there).astype(np.int32).tobytes() + values
    return min(len(vector.tobytes()), len(np.packbits(there).tobytes() + values), len(by_place))


@pytest.mark.parametrize("over", ["fedjets", "fedprints", "fedavg", "fedrep"])
def test_at_strength_0_it_is_the_other_strategy_byte_for_byte(tmp_path: Path, over: str) -> None:
    alone = run_small(tmp_path / "alone", settings=small_config(strategy__name=over))
    own = small_config(strategy__name="lasso") | lasso(over, strength=0.0)
    wrapped = run_small(tmp_path / "lasso", settings=own)
    told = [[line | {"strategy": ""} for line in rounds_of(run)] for run in (wrapped, alone)]
    assert told[0] == told[1]
    one, two = (newest_state(run).to_arrays() for run in (alone, wrapped))
    assert {name: array.tobytes() for name, array in one.items()} == {name: a.tobytes() for name, a in two.items()}


@pytest.mark.parametrize("trainer", ["loop", "stacked"])
@pytest.mark.parametrize("over", ["fedjets", "fedprints", "fedavg", "fedrep"])
def test_a_round_costs_what_its_vectors_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, over: str, trainer: str
) -> None:
    returned: list[int] = []
    sent: list[ServerState] = []
    add, work = Sums.add, orders._work

    def counted(sums: Sums, update: ClientUpdate) -> None:
        returned.append(sum(map(cost, update.vectors().values())))
        add(sums, update)

    def seen(federation: Any, jobs: Any, state: ServerState, *others: Any) -> Any:
        sent.append(state)
        return work(federation, jobs, state, *others)

    monkeypatch.setattr(Sums, "add", counted)
    monkeypatch.setattr(orders, "_work", seen)
    config = small_config(strategy__name="lasso", train__trainer=trainer, num_server_rounds=1)
    # the gate's strength is what the paper has, and all of it large: one round shall do
    run = run_small(tmp_path, nodes=1, settings=config | lasso(over, strength=1.0, gate_strength=1.0))
    (line,) = rounds_of(run)
    told = {name: cost(array) for name, array in sent[0].to_arrays().items()}
    parts = {int(client): [f"expert/{i}" for i in held] for client, held in line["assignment"].items()}
    gates = len(parts) if over == "fedjets" else 0
    down = sum(told[name] for own in parts.values() for name in own) + gates * told.get("gate", 0)
    width = 0 if sent[0].gate is None else sent[0].gate.size // 3 - 1
    prints = 12 * ClientPrint.values_of(width)  # of all training clients, before the first round
    answers = {"fedjets": 4 * 2 * len(line.get("rankings", ())), "fedprints": 4 * prints}
    assert line["bytes"]["down"] == down
    assert line["bytes"]["up"] == sum(returned) + answers.get(over, 0)
    dense = 4 * sum(sent[0].experts[0].size for own in parts.values() for _ in own)
    assert sum(returned) < 0.9 * dense


def test_zeros_are_exact_in_the_state_and_biases_are_none_of_them(tmp_path: Path) -> None:
    run = run_small(
        tmp_path, settings=small_config(strategy__name="lasso") | lasso("fedjets", strength=0.5, gate_strength=0.5)
    )
    state = newest_state(run)
    assert state.gate is not None
    for expert in state.experts:
        body, bias, _, last = np.split(expert, np.cumsum([16 * 5, 5, 5 * 6]))
        assert (body == 0).mean() > 0.2
        assert not (bias == 0).all()
        assert not (last == 0).any()
    assert (state.gate == 0).mean() > 0.2


@pytest.mark.parametrize("server", [0.0, 3.0])
def test_the_servers_step_leaves_fewer_values(tmp_path: Path, server: float) -> None:
    def left(folder: str, **arguments: float) -> int:
        config = small_config(strategy__name="lasso") | lasso("fedavg", strength=0.2, **arguments)
        return int(np.count_nonzero(newest_state(run_small(tmp_path / folder, settings=config)).experts[0]))

    with_step = left("with", server=6.0)
    assert with_step < left("less", server=server)
