"""Pictures cut into patches, and the networks that mix them: NiNformer and MLP-Mixer."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from fedmoe.errors import SettingsError
from fedmoe.moe.construction import build_expert
from fedmoe.moe.expert import Expert, ExpertSpec
from fedmoe.moe.experts.mixer import MixerExpert
from fedmoe.moe.experts.ninformer import MixerGatingUnit, NiNformerExpert
from fedmoe.moe.patches import PatchEmbedding, patch_side
from fedmoe.moe.vectors import load_vector, to_vector

SPEC = ExpertSpec(in_shape=(2, 8, 8), num_classes=3, width=6)
SEEDS = [0, 1, 2]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("shape", "side"), [((3, 8, 12), 2), ((1, 28, 28), 4), ((2, 6, 6), 3), ((1, 5, 7), 1)])
def test_it_is_the_convolution_whose_stride_is_its_size(shape: tuple[int, int, int], side: int) -> None:
    embedding = PatchEmbedding(shape, 5, side)
    x = normal(4, *shape)
    kernel = embedding.linear.weight.unflatten(1, (shape[0], side, side))
    wanted = nn.functional.conv2d(x, kernel, embedding.linear.bias, stride=side).flatten(2).transpose(1, 2)
    assert embedding.tokens == wanted.shape[1]
    torch.testing.assert_close(embedding(x), wanted)


@pytest.mark.parametrize(
    ("height", "width", "side"), [(8, 8, 2), (28, 28, 4), (32, 32, 4), (4, 4, 1), (16, 24, 4), (3, 9, 1), (14, 14, 2)]
)
def test_the_side_that_is_chosen(height: int, width: int, side: int) -> None:
    assert patch_side(height, width) == side
    assert patch_side(height, width, asked=1) == 1


@pytest.mark.parametrize("side", [3, 16, -1])
def test_a_side_that_does_not_divide_is_refused(side: int) -> None:
    with pytest.raises(SettingsError, match=rf"experts.mixer.patch must divide .*8x8.*got {side}; hint"):
        MixerExpert(SPEC, patch=side)


@pytest.mark.parametrize("expert", [NiNformerExpert, MixerExpert])
def test_too_many_patches_are_refused(expert: type[Expert]) -> None:
    with pytest.raises(SettingsError, match=r"at most 1024 patches, got 1369 .*37x37; hint"):
        expert(ExpertSpec(in_shape=(1, 37, 37), num_classes=2))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", ["ninformer", "mixer"])
def test_every_patch_moves_every_other(name: str, seed: int) -> None:
    expert = build_expert(name, SPEC, seed)
    patches = normal(1, 16, 6, seed=seed).requires_grad_()
    block = expert.blocks[0]
    for place in range(16):
        (gradient,) = torch.autograd.grad(block(patches)[0, place].sum(), patches)
        assert (gradient[0].abs().sum(dim=1) > 0).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_gate_of_1_leaves_a_linear_unit(seed: int) -> None:
    unit = MixerGatingUnit(tokens=4, features=5, hidden=7).double()
    x, y = (normal(2, 4, 5, seed=seed + s).double() for s in (0, 10))
    nothing = torch.zeros_like(x)

    def bent(unit: nn.Module) -> float:
        return float((unit(x + 3 * y) + 3 * unit(nothing) - unit(x) - 3 * unit(y)).detach().abs().max())

    assert bent(unit) > 1e-3
    unit.gate.forward = torch.ones_like  # type: ignore[method-assign]
    assert bent(unit) < 1e-12
    torch.testing.assert_close(unit(x), unit.linear(x))


def reference(expert: NiNformerExpert, x: Tensor) -> Tensor:
    """Returns the logits of one picture, block after block and token after token."""

    def mlp(layers: nn.Sequential, v: Tensor) -> Tensor:
        hidden = nn.functional.gelu(layers[0].weight @ v + layers[0].bias)
        return layers[2].weight @ hidden + layers[2].bias

    def normed(norm: nn.LayerNorm, v: Tensor) -> Tensor:
        centred = v - v.mean()
        return centred / (centred.square().mean() + norm.eps).sqrt() * norm.weight + norm.bias

    tokens = list(expert.patches(x[None])[0])
    for block in expert.blocks:
        gate, inner = block.unit.gate, [normed(block.norm, t) for t in tokens]
        turned = torch.stack([normed(gate.token_norm, t) for t in inner])
        mixed = torch.stack([mlp(gate.token_mix, turned[:, d]) for d in range(turned.shape[1])], dim=1)
        half = [a + b for a, b in zip(inner, mixed, strict=True)]
        gates = [h + mlp(gate.channel_mix, normed(gate.channel_norm, h)) for h in half]
        linear = block.unit.linear
        tokens = [t + (linear.weight @ i + linear.bias) * g for t, i, g in zip(tokens, inner, gates, strict=True)]
        tokens = [t + mlp(block.feed_forward, normed(block.norm, t)) for t in tokens]
    return expert.head(torch.stack(tokens).mean(dim=0))


@pytest.mark.parametrize("seed", SEEDS)
def test_ninformer_is_its_equations_token_by_token(seed: int) -> None:
    expert = build_expert("ninformer", SPEC, seed).double()
    with torch.no_grad():
        # so that a norm that is used twice, or not at all, is noticed
        for parameter in expert.parameters():
            parameter.add_(0.3 * normal(*parameter.shape, seed=seed).double())
    x = normal(3, 2, 8, 8, seed=seed).double()
    torch.testing.assert_close(expert(x), torch.stack([reference(expert, one) for one in x]))


@pytest.mark.parametrize("name", ["ninformer", "mixer", "rela"])
def test_the_mean_of_two_copies_is_a_network_of_the_same_form(name: str) -> None:
    spec = ExpertSpec(in_shape=(2, 8, 8), num_classes=3, width=8)
    one, two, middle = (build_expert(name, spec, seed) for seed in (0, 1, 2))
    load_vector(middle, (to_vector(one) + to_vector(two)) / 2)
    x = normal(5, 2, 8, 8)
    assert torch.isfinite(middle(x)).all()
    for label, tensor in middle.named_parameters():
        both = dict(one.named_parameters())[label] + dict(two.named_parameters())[label]
        torch.testing.assert_close(tensor, both / 2)
    assert not any(tensor.is_floating_point() for tensor in middle.buffers()), "statistics of somebody's data"
    # what they compute is theirs alone: no copy of dropout or of running statistics comes between
    assert torch.equal(middle.train()(x), middle.eval()(x))


@pytest.mark.parametrize("name", ["ninformer", "mixer", "rela"])
def test_patches_in_another_order_are_another_picture(name: str) -> None:
    expert = build_expert(name, ExpertSpec(in_shape=(1, 8, 8), num_classes=3, width=8), 0)
    x = normal(4, 1, 8, 8)
    assert (expert(x) - expert(x.roll(2, dims=3))).abs().max() > 1e-4


@pytest.mark.parametrize("name", ["ninformer", "mixer", "rela"])
def test_a_network_has_as_many_blocks_as_asked_and_one_at_least(name: str) -> None:
    spec = replace(SPEC, width=8)
    for layers in (1, 3):
        blocks = build_expert(name, replace(spec, arguments={"layers": layers}), 0).blocks
        assert len({block_weights(block) for block in blocks}) == len(blocks) == layers
    with pytest.raises(SettingsError, match=rf"experts.{name}.layers must be at least 1, got 0; hint"):
        build_expert(name, replace(spec, arguments={"layers": 0}), 0)


def block_weights(block: nn.Module) -> bytes:
    return to_vector(block).tobytes()
