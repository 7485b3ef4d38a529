"""Self-tuning in whole small runs: whose hyper-parameters move, by which samples, and who is served by which."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedmoe.errors import SettingsError
from fedmoe.moe.construction import build_expert
from fedmoe.moe.expert import ExpertSpec
from fedmoe.moe.vectors import parts_of
from fedmoe.recording.checkpoints import load_checkpoint, newest_checkpoint
from fedmoe.recording.client_states import ClientStates
from tests.small import run_small, small_config

ROUNDS = 3
KEPT = "private/hyper*/expert/0"


def run(place: Path, **settings: Any) -> Path:
    config = small_config(num_server_rounds=ROUNDS) | {
        "strategy.name": "self_tuning",
        "experts.model": "best_response",
        "common-expert.model": "mlp",
        "evaluate.ema": 0.0,
    }
    return run_small(place, settings=config | {key.replace("__", "."): value for key, value in settings.items()})


def parts(folder: Path) -> dict[str, np.ndarray]:
    path = newest_checkpoint(next(found.parent.parent for found in folder.rglob("checkpoints/*")))
    assert path is not None
    vector = load_checkpoint(path).arrays["expert/0"]
    expert = build_expert("best_response", ExpertSpec(in_shape=(1, 4, 4), num_classes=6, width=5), 0)
    return {part.name: vector[part.offset : part.offset + part.size] for part in parts_of(expert)}


def kept(folder: Path) -> dict[int, np.ndarray]:
    states = ClientStates(folder / "client-states")
    own = {client: states.load(client, ROUNDS) for client in range(12)}
    return {client: arrays[KEPT] for client, arrays in own.items() if arrays}


@pytest.mark.parametrize("trainer", ["loop", "stacked"])
def test_clients_keep_hyper_parameters_that_differ_and_the_server_has_their_mean(tmp_path: Path, trainer: str) -> None:
    folder = run(tmp_path, train__trainer=trainer)
    own, start = kept(folder), parts(run(tmp_path / "still", strategy__self_tuning__tune=False))["hyper"]
    assert len({value.tobytes() for value in own.values()}) == len(own) > 4
    assert all(value.shape == (1,) and value != start for value in own.values())
    mean = parts(folder)["hyper"]
    values = [float(value[0]) for value in own.values()]
    assert min(values) < float(mean[0]) < max(values)


def test_both_trainers_come_to_the_same(tmp_path: Path) -> None:
    loop, stacked = (run(tmp_path / kind, train__trainer=kind) for kind in ("loop", "stacked"))
    for name, value in parts(loop).items():
        np.testing.assert_allclose(parts(stacked)[name], value, rtol=0, atol=2e-5, err_msg=name)
    for client, value in kept(loop).items():
        np.testing.assert_allclose(kept(stacked)[client], value, rtol=0, atol=2e-5)


def test_without_tuning_nothing_of_it_moves_and_nobody_keeps_anything(tmp_path: Path) -> None:
    folder = run(tmp_path, strategy__self_tuning__tune=False, experts__best_response__rate=0.45)
    assert kept(folder) == {}
    np.testing.assert_allclose(parts(folder)["hyper"], 0.0, atol=1e-6)


def test_the_rate_makes_a_difference_and_the_same_seed_does_not(tmp_path: Path) -> None:
    settings = {"strategy__self_tuning__tune": False}
    one, two, other = (
        parts(run(tmp_path / str(n), experts__best_response__rate=rate, **settings))["body.weight"]
        for n, rate in enumerate((0.2, 0.2, 0.7))
    )
    assert one.tobytes() == two.tobytes()
    assert one.tobytes() != other.tobytes()


def test_experts_without_hyper_parameters_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"got experts\.model='mlp'; hint: experts\.model='best_response'"):
        run(tmp_path, experts__model="mlp")
