"""Strategies whose clients keep something, against plain torch and against what their papers' equations imply."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fedmoe.data.population import build_population
from fedmoe.errors import SettingsError
from fedmoe.recording.client_states import ClientStates
from fedmoe.seeding import derive_seed, numpy_stream, torch_stream
from fedmoe.settings import Settings, from_flat
from tests.small import NUM_CLASSES, blobs, newest_state, rounds_of, run_small, small_config

ROUNDS = 5


class ByHand:
    """Clients of a small run, trained by plain torch."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.data = settings, blobs(None)  # type: ignore[arg-type]
        self.who = build_population(self.data, settings)
        public = self.data.x_NCHW[np.sort(self.who.public_ids)].astype(np.float64)
        self.mean, self.std = np.float32(public.mean()), np.float32(max(public.std(), 1.0))
        torch.manual_seed(derive_seed(settings.seed, "expert", 0))
        hidden = settings.experts.width
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(16, hidden), nn.ReLU(), nn.Linear(hidden, NUM_CLASSES))
        self.start = nn.utils.parameters_to_vector(self.net.parameters()).detach().clone()

    def sampled(self, round_num: int) -> list[int]:
        lots = numpy_stream(self.settings.seed, "round", round_num, "server")
        return sorted(lots.choice(self.who.num_training, self.settings.clients.per_round, replace=False).tolist())

    def train(self, client: int, round_num: int, weights: torch.Tensor, add: Any) -> torch.Tensor:
        """Returns the weights after the client's epochs; `add` is what each step's gradient gets, from the weights."""
        train = self.settings.train
        x = (torch.tensor(self.data.x_NCHW[self.who.shards[client]]).float() - self.mean) / self.std
        y = torch.tensor(self.data.y_N[self.who.shards[client]])
        nn.utils.vector_to_parameters(weights.clone(), self.net.parameters())
        sgd = torch.optim.SGD(self.net.parameters(), train.learning_rate, train.momentum)
        shuffles = torch_stream(self.settings.seed, "train", "round", round_num, "client", client)
        for _ in range(train.epochs):
            for rows in torch.randperm(len(y), generator=shuffles).split(train.batch_size):
                sgd.zero_grad()
                nn.functional.cross_entropy(self.net(x[rows]), y[rows]).backward()
                now = nn.utils.parameters_to_vector(self.net.parameters()).detach()
                correction, first = add(now), 0
                for parameter in self.net.parameters():
                    parameter.grad += correction[first : first + parameter.numel()].view_as(parameter)
                    first += parameter.numel()
                sgd.step()
        return nn.utils.parameters_to_vector(self.net.parameters()).detach().clone()


def run(folder: Path, name: str, **changes: Any) -> tuple[Path, Settings]:
    config = small_config(strategy__name=name, num_server_rounds=ROUNDS, train__epochs=2, **changes)
    config |= {f"strategy.{name}.init": "random"}
    return run_small(folder, settings=config), from_flat(config)


def last_kept(folder: Path, client: int, name: str) -> np.ndarray:
    return ClientStates(folder / "client-states").load(client, ROUNDS)[name]


@pytest.mark.parametrize("trainer", ["loop", "stacked"])
@pytest.mark.parametrize("seed", [0, 1])
def test_scaffold_without_momentum_is_algorithm_1_option_2(tmp_path: Path, seed: int, trainer: str) -> None:
    folder, settings = run(tmp_path, "scaffold", seed=seed, train__momentum=0.0, train__trainer=trainer)
    hand = ByHand(settings)
    weights, control = hand.start, torch.zeros_like(hand.start)
    controls: dict[int, torch.Tensor] = {}
    for r in range(1, ROUNDS + 1):
        ends, changes = [], []
        for client in hand.sampled(r):
            own = controls.get(client, torch.zeros_like(control))
            end = hand.train(client, r, weights, lambda now, lacks=control - own: lacks)
            steps = 2 * -(-len(hand.who.shards[client]) // settings.train.batch_size)
            new = own - control + (weights - end) / (steps * settings.train.learning_rate)
            ends.append(end)
            changes.append(new - own)
            controls[client] = new
        weights = torch.stack(ends).mean(dim=0)
        control = control + torch.stack(changes).sum(dim=0) / hand.who.num_training
    state = newest_state(folder)
    np.testing.assert_allclose(state.experts[0], weights, rtol=0, atol=2e-5)
    np.testing.assert_allclose(state.extras["control/expert/0"], control, rtol=0, atol=2e-4)
    for client, own in controls.items():
        np.testing.assert_allclose(last_kept(folder, client, "memory/control/expert/0"), own, rtol=0, atol=2e-3)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_servers_control_is_the_mean_of_all_clients(tmp_path: Path, momentum: float) -> None:
    folder, settings = run(tmp_path, "scaffold", train__momentum=momentum)
    seen = {client for line in rounds_of(folder) for client in line["clients"]}
    assert len(seen) < settings.clients.num, "a client that never took part counts with 0"
    total = sum(last_kept(folder, client, "memory/control/expert/0").astype(np.float64) for client in seen)
    ours = newest_state(folder).extras["control/expert/0"]
    np.testing.assert_allclose(ours, total / settings.clients.num, rtol=0, atol=1e-5)
    assert np.abs(ours).max() > 0.01


def test_scaffold_refuses_adamw(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"scaffold.*adamw"):
        run(tmp_path, "scaffold", train__optimiser="adamw")


def test_dittos_global_model_is_fedavgs_to_the_byte(tmp_path: Path) -> None:
    ditto, _ = run(tmp_path / "ditto", "ditto")
    fedavg, _ = run(tmp_path / "fedavg", "fedavg")
    assert newest_state(ditto).experts[0].tobytes() == newest_state(fedavg).experts[0].tobytes()
    for one, two in zip(rounds_of(ditto), rounds_of(fedavg), strict=True):
        one.pop("strategy"), two.pop("strategy")
        assert one == two, "bytes, load and figures too"


@pytest.mark.parametrize("trainer", ["loop", "stacked"])
@pytest.mark.parametrize("strength", [0.0, 0.7])
def test_dittos_personal_models_are_those_of_plain_torch(tmp_path: Path, strength: float, trainer: str) -> None:
    folder, settings = run(tmp_path, "ditto", strategy__ditto__strength=strength, train__trainer=trainer)
    hand, weights = ByHand(settings), None
    weights, personal = hand.start, {}
    for r in range(1, ROUNDS + 1):
        ends, sizes = [], []
        for client in hand.sampled(r):
            ends.append(hand.train(client, r, weights, torch.zeros_like))
            sizes.append(len(hand.who.shards[client]))
            begun = personal.get(client, weights)
            personal[client] = hand.train(client, r, begun, lambda now, w=weights: strength * (now - w))
        weights = (torch.stack(ends) * torch.tensor(sizes)[:, None]).sum(dim=0) / sum(sizes)
    assert len(personal) > settings.clients.per_round
    for client, own in personal.items():
        np.testing.assert_allclose(last_kept(folder, client, "private/expert/0"), own, rtol=0, atol=2e-5)
