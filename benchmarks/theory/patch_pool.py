"""Chen et al.'s mixture on their clusters of patches, trained in one place, in two forms; and one expert alone.

Shapes: N samples, P patches, D width of a patch, M experts, C = 2 classes.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from fedmoe.data.patch_law import PatchLaw, draw_patches
from fedmoe.evaluation.gathering import count_entropy, mutual_information
from fedmoe.moe.construction import build_expert, build_gate
from fedmoe.moe.expert import Expert, ExpertSpec
from fedmoe.moe.gate import Gate, GateSpec
from fedmoe.moe.gates.noisy_top1 import NoisyTop1Gate
from fedmoe.seeding import derive_seed, torch_stream
from fedmoe.training.optimiser import normalise

__all__ = [
    "PAPER",
    "RELEASED",
    "Form",
    "Pool",
    "Samples",
    "dispatch_entropy",
    "pool_of",
    "samples",
    "train_alone",
    "train_pool",
]

NUM_EXPERTS, FILTERS_PER_CLASS = 8, 8
SCALE = 10.0  # all patches are multiplied by it in the released code
RATE, GATE_RATE = 0.001, 0.1
ALONE_FILTERS_PER_CLASS = 40  # the smallest of the paper's three widths, and its best for the cubic one
ALONE_RATES = {"patch_linear": 0.003, "patch_cubic": 0.01}
DECAY = 5e-4
CHUNK = 1000  # samples that are worked on at a time where all go to one expert: their numbers stay in the cache


@dataclass(frozen=True, kw_only=True)
class Form:
    """What paper and released code do differently.

    Attributes:
        weighs_by_softmax: the chosen expert's output is multiplied by the softmax of the scores without their noise;
            else by its raw score, noise and all.
        softmax_output: the output goes through a softmax before the cross-entropy, which has one of its own.
        noise_at_test: experts are chosen by noisy scores at the test too.
    """

    weighs_by_softmax: bool
    softmax_output: bool
    noise_at_test: bool


PAPER = Form(weighs_by_softmax=True, softmax_output=False, noise_at_test=False)
RELEASED = Form(weighs_by_softmax=False, softmax_output=True, noise_at_test=True)


@dataclass(frozen=True)
class Samples:
    """Patches x_N1PD (an image a sample, times 10), their sums sum_ND, labels, clusters."""

    x: Tensor
    sum: Tensor
    y: Tensor
    cluster: Tensor

    def __len__(self) -> int:
        return len(self.y)


def samples(law: PatchLaw, num: int, seed: int, part: str) -> Samples:
    """Returns `num` samples of the law as tensors."""
    drawn = draw_patches(law, num, seed, part)
    x_NPD = SCALE * torch.from_numpy(drawn.x_NPD)
    return Samples(x_NPD[:, None], x_NPD.sum(dim=1), torch.from_numpy(drawn.y_N), torch.from_numpy(drawn.cluster_N))


def dispatch_entropy(cluster_N: Tensor, expert_N: Tensor) -> float:
    """Returns the mean over samples of the entropy (nats) of the clusters that fall to the same expert.

    Chen et al.'s dispatch entropy; not that of a run's records, which is the entropy of the load.

    0: an expert gets one cluster alone; the log of the number of clusters: routing knows nothing of them. It is what
    the expert leaves open about the cluster, H(cluster) - I(cluster; expert).
    """
    counts = np.zeros((int(expert_N.max()) + 1, int(cluster_N.max()) + 1), dtype=np.int64)
    np.add.at(counts, (expert_N.numpy(), cluster_N.numpy()), 1)
    return max(0.0, count_entropy(counts.sum(axis=0)) - mutual_information(counts))


def fresh(model: str, width: int, like: Samples, seed: int, *path: str | int) -> Expert:
    """Returns an expert whose head stays the sum of each class's filters, as in the paper."""
    channels, height, patch = like.x.shape[1:]
    spec = ExpertSpec(in_shape=(channels, height, patch), num_classes=2, width=width, arguments={"fixed_head": True})
    return build_expert(model, spec, derive_seed(seed, "expert", *path))


@dataclass(frozen=True)
class Pool:
    """Experts and gate (theta_MD), and the form in which they are put together."""

    experts: list[Expert]
    theta_MD: Tensor
    form: Form

    def route(self, given: Samples, noise: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Returns the factor of each expert's output, weighs_NM, and the expert of each sample."""
        clean_NM = given.sum @ self.theta_MD.T
        noisy_NM = clean_NM if noise is None else clean_NM + torch.rand(clean_NM.shape, generator=noise)
        weighs_NM = torch.softmax(clean_NM, dim=1) if self.form.weighs_by_softmax else noisy_NM
        return weighs_NM, noisy_NM.argmax(dim=1)

    def forward(self, given: Samples, noise: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Returns the output logits_NC, and the expert of each sample."""
        weighs_NM, expert_N = self.route(given, noise)
        rows = [torch.nonzero(expert_N == index)[:, 0] for index in range(len(self.experts))]
        parts = [expert(given.x[own]) for expert, own in zip(self.experts, rows, strict=True)]
        logits_NC = torch.zeros(len(given), 2).index_copy(0, torch.cat(rows), torch.cat(parts))
        return logits_NC * weighs_NM.gather(1, expert_N[:, None]), expert_N

    def loss(self, given: Samples, noise: torch.Generator) -> Tensor:
        """Returns the mean cross-entropy."""
        logits_NC, _ = self.forward(given, noise)
        return cross_entropy(torch.softmax(logits_NC, dim=1) if self.form.softmax_output else logits_NC, given.y)

    @torch.no_grad()
    def test(self, given: Samples, noise: torch.Generator) -> tuple[float, float]:
        """Returns accuracy in percent and dispatch entropy."""
        logits_NC, expert_N = self.forward(given, noise if self.form.noise_at_test else None)
        right = (logits_NC.argmax(dim=1) == given.y).float().mean()
        return 100 * float(right), dispatch_entropy(given.cluster, expert_N)


@dataclass(frozen=True)
class GatedPool(Pool):
    """A pool with fedmoe's own gate, whose tensor theta_MD is: noise, choice and weights are the gate's."""

    gate: Gate

    def route(self, given: Samples, noise: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Returns the gate's weights_NM, and the expert of each sample, the heaviest."""
        self.gate.train(noise is not None)
        lots_NL = (
            torch.zeros(len(given), 0) if noise is None else torch.rand(len(given), self.gate.draws, generator=noise)
        )
        logits_NM = self.gate.scores(torch.cat([given.sum, lots_NL], dim=1))
        weighs_NM = self.gate.weigh(logits_NM, torch.arange(len(self.experts)))
        return weighs_NM, weighs_NM.argmax(dim=1)


def pool_of(experts: list[Expert], form: Form, width: int, gated: bool) -> Pool:
    """Returns the experts with a gate that is zero: Chen et al.'s, or the house's `noisy_top1`."""
    if not gated:
        return Pool(experts, torch.zeros(len(experts), width, requires_grad=True), form)
    gate = build_gate("noisy_top1", GateSpec(in_features=width, num_experts=len(experts), hidden=1), 0)
    assert isinstance(gate, NoisyTop1Gate)
    return GatedPool(experts, gate.theta_MD, form, gate)


def train_pool(model: str, form: Form, train: Samples, seed: int, steps: int, gated: bool = False) -> Pool:
    """Returns a pool after full-batch descent: normalised for each expert, plain for the gate, which starts at 0.

    Args:
        model: name of the experts' backbone.
        form: the paper's, or the released code's.
        train: what it learns from.
        seed: of first weights and noise.
        steps: of descent.
        gated: with fedmoe's gate `noisy_top1` instead of the formula written out; then `form` is to be `PAPER`.
    """
    experts = [fresh(model, FILTERS_PER_CLASS, train, seed, index) for index in range(NUM_EXPERTS)]
    trained = [[tensor for tensor in expert.parameters() if tensor.requires_grad] for expert in experts]
    pool = pool_of(experts, form, train.sum.shape[1], gated)
    flat = [tensor for own in trained for tensor in own]
    optimiser = torch.optim.SGD([{"params": flat, "lr": RATE}, {"params": [pool.theta_MD], "lr": GATE_RATE}])
    noise = torch_stream(seed, "noise", "train")
    for _ in range(steps):
        optimiser.zero_grad()
        pool.loss(train, noise).backward()  # type: ignore[no-untyped-call]
        for own in trained:
            normalise(own)
        optimiser.step()
    return pool


def train_alone(model: str, train: Samples, test: Samples, seed: int, steps: int) -> float:
    """Returns the accuracy in percent of one expert after full-batch Adam with weight decay."""
    expert = fresh(model, ALONE_FILTERS_PER_CLASS, train, seed, "alone")
    parameters = [tensor for tensor in expert.parameters() if tensor.requires_grad]
    adam = torch.optim.Adam(parameters, lr=ALONE_RATES[model], weight_decay=DECAY)
    for _ in range(steps):
        adam.zero_grad()
        for x, y in chunks(train):
            (cross_entropy(expert(x), y, reduction="sum") / len(train)).backward()  # type: ignore[no-untyped-call]
        adam.step()
    with torch.no_grad():
        right = sum(int((expert(x).argmax(dim=1) == y).sum()) for x, y in chunks(test))
    return 100 * right / len(test)


def chunks(given: Samples) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields inputs and labels, a thousand samples at a time."""
    yield from zip(torch.split(given.x, CHUNK), torch.split(given.y, CHUNK), strict=True)
