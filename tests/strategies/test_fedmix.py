"""FedMix by plain torch: its clients climb the likelihood of one mixture of all experts, and it serves that mixture."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fedmoe.federation.state import ServerState
from fedmoe.flower.preparation import Preparation, prepare_run
from fedmoe.seeding import torch_stream
from fedmoe.settings import from_flat
from tests.small import NUM_CLASSES, newest_state, rounds_of, run_small, small_config


class Mixture(nn.Module):
    """A gate and all experts, written out: `p(y | x) = sum_m softmax(g(e))_m softmax(f_m(x))_y`."""

    def __init__(self, preparation: Preparation, state: ServerState) -> None:
        super().__init__()
        self.preparation, settings = preparation, preparation.settings
        features, width, pool = self.embeddings(np.arange(1)).shape[1], settings.experts.width, settings.experts.num
        hidden = settings.gate.hidden
        self.gate = nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, pool))
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Flatten(), nn.Linear(16, width), nn.ReLU(), nn.Linear(width, NUM_CLASSES))
            for _ in range(pool)
        )
        assert state.gate is not None
        for part, vector in zip((self.gate, *self.experts), (state.gate, *state.experts), strict=True):
            nn.utils.vector_to_parameters(torch.tensor(vector), part.parameters())

    def embeddings(self, ids: np.ndarray) -> torch.Tensor:
        return self.preparation.store.gate_input(ids, "embedding")

    def log_likelihoods(self, ids: np.ndarray) -> torch.Tensor:
        """Returns log p(y | x) of each class."""
        data, public = self.preparation.data.dataset, np.sort(self.preparation.population.public_ids)
        pixels = data.x_NCHW[public].astype(np.float64)
        mean, std = np.float32(pixels.mean()), np.float32(max(pixels.std(), 1.0))
        x = (torch.tensor(data.x_NCHW[ids]).float() - mean) / std
        each = torch.stack([expert(x).softmax(dim=1) for expert in self.experts], dim=1)
        return (self.gate(self.embeddings(ids)).softmax(dim=1)[:, :, None] * each).sum(dim=1).log()

    def train_on(self, client: int, round_num: int) -> list[np.ndarray]:
        """Returns the gate's and the experts' vectors after the client's own steps of gradient descent."""
        settings = self.preparation.settings
        train, ids = settings.train, self.preparation.population.shards[client]
        y = torch.tensor(self.preparation.data.dataset.y_N[ids])
        one = torch.optim.SGD(self.experts.parameters(), train.learning_rate, train.momentum)
        other = torch.optim.SGD(self.gate.parameters(), train.gate_learning_rate, train.gate_momentum)
        shuffles = torch_stream(settings.seed, "train", "round", round_num, "client", client)
        for _ in range(train.epochs):
            for rows in torch.randperm(len(y), generator=shuffles).split(train.batch_size):
                loss = nn.functional.nll_loss(self.log_likelihoods(ids[rows.numpy()]), y[rows])
                for optimiser in (one, other):
                    optimiser.zero_grad()
                loss.backward()
                one.step()
                other.step()
        parts = (self.gate, *self.experts)
        return [nn.utils.parameters_to_vector(part.parameters()).detach().numpy() for part in parts]


def run(folder: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> tuple[Path, Preparation]:
    config = small_config(strategy__name="fedmix", **changes) | {"strategy.fedmix.init": "random"}
    made = run_small(folder, settings=config)
    monkeypatch.setenv("FEDMOE_HOME", str(folder / "home"))
    return made, prepare_run(from_flat(config), torch.device("cpu"), lambda _: None)


@pytest.mark.parametrize("seed", range(3))
def test_a_round_is_the_mean_of_gradient_steps_on_the_whole_mixture(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, preparation = run(tmp_path, monkeypatch, seed=seed, num_server_rounds=2)
    settings, shards = preparation.settings, preparation.population.shards
    state = preparation.initial_state(settings.experts.num, True, "random")
    for round_num, line in enumerate(rounds_of(folder), start=1):
        clients = [int(client) for client in line["clients"]]
        moved = [Mixture(preparation, state).train_on(client, round_num) for client in clients]
        sizes = np.array([len(shards[client]) for client in clients], dtype=np.float64)
        gate, *experts = (np.average(part, axis=0, weights=sizes) for part in zip(*moved, strict=True))
        state = ServerState(gate=gate.astype(np.float32), experts=tuple(e.astype(np.float32) for e in experts))
    found = newest_state(folder)
    for mine, theirs in zip((state.gate, *state.experts), (found.gate, *found.experts), strict=True):
        np.testing.assert_allclose(theirs, mine, rtol=0, atol=2e-5)


@pytest.mark.parametrize("seed", range(3))
def test_an_unseen_client_is_served_by_the_mixture_of_all_experts(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, preparation = run(tmp_path, monkeypatch, seed=seed, num_server_rounds=6, experts__top_k=1)
    population, mixture = preparation.population, Mixture(preparation, newest_state(folder))
    for client, row in zip(population.unseen, rounds_of(folder)[-1]["evaluate"]["clients"], strict=True):
        ids = population.shards[client]
        with torch.no_grad():
            right = mixture.log_likelihoods(ids).argmax(dim=1).numpy() == preparation.data.dataset.y_N[ids]
        assert row["client_id"] == client
        assert row["zero_shot"] == pytest.approx(right.mean(), abs=1e-6)
        assert len(row["experts"]) == preparation.settings.experts.num
