"""A client's outputs are its own, to the last bit, whoever is served beside it."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedmoe.evaluation.outputs import expert_logits, gate_logits, in_batches
from fedmoe.moe.construction import build_expert, build_gate
from fedmoe.moe.expert import Expert, ExpertSpec
from fedmoe.moe.gate import GateSpec
from fedmoe.training.samples import ClientSamples

POOL = 4
BACKBONES = {
    "small mlp": ("mlp", (1, 4, 4), 5, "group"),
    "wide mlp": ("mlp", (3, 32, 32), 64, "group"),
    "middling mlp": ("mlp", (1, 28, 28), 128, "group"),
    "heads": ("head", (128, 1, 1), 0, "group"),
    "cnn": ("cnn", (1, 8, 8), 4, "group"),
    "resnet8": ("resnet8", (3, 8, 8), 8, "group"),
    "resnet8 with BatchNorm": ("resnet8", (3, 8, 8), 4, "batch"),
}


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def clients_of(seed: int, shape: tuple[int, int, int], most: int = 150, width: int = 9) -> list[ClientSamples]:
    rng, stream = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    return [
        ClientSamples(
            images=torch.randint(256, (size, *shape), generator=stream).to(torch.uint8),
            y=torch.randint(5, (size,), generator=stream),
            gate_input=torch.randn(size, width, generator=stream),
            mean=torch.full((shape[0], 1, 1), 120.0),
            std=torch.full((shape[0], 1, 1), 60.0),
        )
        for size in (1, *rng.integers(1, most, 4).tolist())
    ]


def pool_of(name: str, seed: int) -> list[Expert]:
    backbone, shape, width, norm = BACKBONES[name]
    spec = ExpertSpec(in_shape=shape, num_classes=7, width=width, norm=norm)
    return [build_expert(backbone, spec, 10 * seed + i) for i in range(POOL)]


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", BACKBONES)
def test_experts_say_the_same_of_a_client_alone_and_among_others(name: str, seed: int) -> None:
    clients, pool = clients_of(seed, BACKBONES[name][1]), pool_of(name, seed)
    rng = np.random.default_rng(seed)
    wanted = [sorted(rng.choice(POOL, rng.integers(1, POOL + 1), replace=False).tolist()) for _ in clients]
    together = expert_logits(lambda i: pool[i], wanted, clients)
    for order in (rng.permutation(5), rng.permutation(5)[:3], *np.eye(5, dtype=bool)):
        some = np.arange(5)[order].tolist()
        apart = expert_logits(lambda i: pool[i], [wanted[n] for n in some], [clients[n] for n in some])
        for n, own in zip(some, apart, strict=True):
            assert sorted(own) == wanted[n]
            for expert_id, logits in own.items():
                assert logits.numpy().tobytes() == together[n][expert_id].numpy().tobytes(), (n, expert_id)
    with torch.no_grad():
        for own, samples in zip(together, clients, strict=True):
            for expert_id, logits in own.items():
                alone = torch.cat([pool[expert_id](samples.inputs(slice(n, n + 1))) for n in range(len(samples))])
                torch.testing.assert_close(logits, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("width", [5, 64, 512])
def test_a_gate_says_the_same_of_a_client_alone_and_among_others(seed: int, width: int) -> None:
    gate = build_gate("mlp", GateSpec(in_features=width, num_experts=10, hidden=64), seed)
    inputs = [own.gate_input for own in clients_of(seed, (1, 1, 1), width=width)]
    together = gate_logits(gate, inputs)
    for part in (slice(1, 4), slice(0, 1), slice(3, 5), slice(2, 3)):
        for one, two in zip(gate_logits(gate, inputs[part]), together[part], strict=True):
            assert one.numpy().tobytes() == two.numpy().tobytes()
    for own, logits in zip(inputs, together, strict=True):
        torch.testing.assert_close(logits, gate.scores(own).detach(), rtol=1e-4, atol=1e-5)
        assert not logits.requires_grad


@pytest.mark.parametrize(("width", "size"), [(0, 256), (1, 256), (784, 83), (3072, 32)])
def test_every_batch_has_one_shape_and_padding_is_cut_off(width: int, size: int) -> None:
    for total in (1, size - 1, size, size + 1, 3 * size):
        seen: list[tuple[int, ...]] = []

        def double(x: Tensor, seen: list[tuple[int, ...]] = seen) -> Tensor:
            seen.append(tuple(x.shape))
            return 2 * x.sum(dim=1, keepdim=True) + 1

        inputs = torch.arange(1.0 * total)[:, None] * torch.eye(1, width)
        rows = torch.arange(total).flip(0)
        outputs = in_batches(double, lambda some, inputs=inputs: inputs[some], rows)  # type: ignore[misc]
        assert torch.equal(outputs, 2 * inputs.flip(0).sum(dim=1, keepdim=True) + 1)
        assert seen == [(size, width)] * -(-total // size)


def test_each_expert_is_loaded_once_and_only_where_wanted() -> None:
    clients, pool, loaded = clients_of(0, (1, 4, 4)), pool_of("small mlp", 0), []

    def load(expert_id: int) -> Expert:
        loaded.append(expert_id)
        return pool[expert_id]

    expert_logits(load, [(3, 0), (0,), (3,), (0, 3), (3,)], clients)
    assert loaded == [0, 3]


def test_experts_and_gate_are_asked_in_evaluation_mode() -> None:
    clients = clients_of(0, (3, 8, 8), most=40)
    (expert, *_) = pool_of("resnet8 with BatchNorm", 0)
    before = [buffer.clone() for buffer in expert.buffers()]
    expert_logits(lambda i: expert.train(), [(0,)] * 5, clients)
    assert all(torch.equal(one, two) for one, two in zip(before, expert.buffers(), strict=True))
    gate = build_gate("mlp", GateSpec(in_features=9, num_experts=3, hidden=4), 0)
    gate.layers = nn.Sequential(nn.Dropout(0.5), gate.layers)
    inputs = [own.gate_input for own in clients]
    assert torch.equal(gate_logits(gate.train(), inputs)[1], gate_logits(gate.train(), inputs)[1])


def test_outputs_are_aligned_alike_wherever_a_client_stood() -> None:
    clients, pool = clients_of(1, (1, 4, 4)), pool_of("small mlp", 0)
    outputs = [own[0] for own in expert_logits(lambda i: pool[i], [(0,)] * 5, clients)]
    gate = build_gate("mlp", GateSpec(in_features=9, num_experts=3, hidden=4), 0)
    for tensor in outputs + gate_logits(gate, [own.gate_input for own in clients]):
        assert tensor.data_ptr() % 64 == 0


def test_a_client_without_samples_is_refused() -> None:
    one, *_ = clients_of(0, (1, 4, 4))
    none = ClientSamples(one.images[:0], one.y[:0], one.gate_input[:0], one.mean, one.std)
    with pytest.raises(ValueError, match="a sample at least"):
        expert_logits(lambda i: pool_of("small mlp", 0)[i], [(0,), (0,)], [one, none])
