"""A toy task that attention must align for: each token asks for a key, and is to tell the value that stands beside it.

A sequence has tokens of a key and a value, then tokens that ask: a key alone. Half of those that ask want a key that
nobody has, and are to say so; a token that asks in vain has nothing to look at.

Shapes: B sequences, S tokens that tell, Q tokens that ask, D features of a token.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fedmoe.moe.attention import AttentionBlock
from fedmoe.seeding import torch_stream

__all__ = ["ASKING", "KEYS", "TELLING", "VALUES", "Lookup", "LookupNet", "lookups", "train_lookups"]

KEYS, VALUES = 16, 8
TELLING, ASKING = 8, 8  # S, Q


@dataclass(frozen=True)
class Lookup:
    """Sequences.

    Attributes:
        keys_BN: int64 key of each token, the S that tell, then the Q that ask.
        values_BN: int64 value of each token; VALUES for one that asks.
        answers_BQ: int64 values that are to be told; VALUES: nobody has the key.
        places_BQ: int64 place of the token that has the key; where nobody has it, 0.
    """

    keys_BN: Tensor
    values_BN: Tensor
    answers_BQ: Tensor
    places_BQ: Tensor


def lookups(count: int, stream: torch.Generator) -> Lookup:
    """Returns random sequences: different keys that tell, keys asked for that are there every other time."""
    order_BK = torch.rand(count, KEYS, generator=stream).argsort(dim=1)
    values_BS = torch.randint(VALUES, (count, TELLING), generator=stream)
    there_BQ = torch.rand(count, ASKING, generator=stream) < 0.5
    places_BQ = torch.randint(TELLING, (count, ASKING), generator=stream) * there_BQ
    absent_BQ = torch.randint(TELLING, KEYS, (count, ASKING), generator=stream)
    asked_BQ = order_BK.gather(1, torch.where(there_BQ, places_BQ, absent_BQ))
    return Lookup(
        torch.cat([order_BK[:, :TELLING], asked_BQ], dim=1),
        torch.cat([values_BS, torch.full((count, ASKING), VALUES)], dim=1),
        torch.where(there_BQ, values_BS.gather(1, places_BQ), VALUES),
        places_BQ,
    )


class LookupNet(nn.Module):
    """Embeddings of key and value added up, blocks of attention, and a linear head for each token that asks."""

    def __init__(self, features: int, layers: int, heads: int, kind: str) -> None:
        super().__init__()
        self.key = nn.Embedding(KEYS, features)
        self.value = nn.Embedding(VALUES + 1, features)
        self.blocks = nn.Sequential(*(AttentionBlock(features, heads, kind) for _ in range(layers)))
        self.norm = nn.LayerNorm(features)
        self.head = nn.Linear(features, VALUES + 1)

    def tokens(self, task: Lookup) -> Tensor:
        """Returns tokens_BND."""
        tokens_BND: Tensor = self.key(task.keys_BN) + self.value(task.values_BN)
        return tokens_BND

    def forward(self, task: Lookup) -> Tensor:
        """Returns logits_BQC over the values, and that nobody has the key."""
        features_BND = self.norm(self.blocks(self.tokens(task)))
        logits_BQC: Tensor = self.head(features_BND[:, TELLING:])
        return logits_BQC


def train_lookups(net: LookupNet, steps: int, seed: int, batch: int = 64, rate: float = 0.003) -> None:
    """Trains the net, in place, with Adam on sequences that are new in every step; the rate falls along a cosine."""
    stream = torch_stream(seed, "lookups", "train")
    optimiser = torch.optim.Adam(net.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        task = lookups(batch, stream)
        optimiser.zero_grad()
        loss = cross_entropy(net(task).flatten(0, 1), task.answers_BQ.flatten())
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
