"""Clients of a small run trained by plain torch: what strategies are held against."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn

from fedmoe.data.population import build_population
from fedmoe.seeding import derive_seed, numpy_stream, torch_stream
from fedmoe.settings import Settings
from tests.small import NUM_CLASSES, blobs

__all__ = ["ByHand"]


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

    def train(
        self,
        client: int,
        round_num: int,
        weights: torch.Tensor,
        add: Callable[[torch.Tensor], torch.Tensor] = torch.zeros_like,
        *,
        pooled: Sequence[int] = (),
        layers: Sequence[int] = (1, 3),
    ) -> torch.Tensor:
        """Returns the weights after the client's epochs.

        Args:
            client: whose samples and stream.
            round_num: of the stream.
            weights: where it starts.
            add: what each step's gradient gets, from the weights.
            pooled: clients whose samples are put together.
            layers: those that are trained.
        """
        train = self.settings.train
        ids = np.concatenate([self.who.shards[own] for own in pooled or (client,)])
        x = (torch.tensor(self.data.x_NCHW[ids]).float() - self.mean) / self.std
        y = torch.tensor(self.data.y_N[ids])
        nn.utils.vector_to_parameters(weights.clone(), self.net.parameters())
        own = [parameter for layer in layers for parameter in self.net[layer].parameters()]
        sgd = torch.optim.SGD(own, train.learning_rate, train.momentum)
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
