"""Laws of rectified linear attention and its softmax twin."""

import pytest
import torch
from torch import Tensor, nn

from fedmoe.errors import SettingsError
from fedmoe.moe.attention import Attention, AttentionBlock, GatedRMSNorm
from fedmoe.moe.expert import ExpertSpec
from fedmoe.moe.experts.rela import ReLAExpert

SEEDS = [0, 1, 2]
KINDS = ["relu", "softmax"]


def made(kind: str, seed: int, block: bool = False) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = (AttentionBlock if block else Attention)(8, 2, kind).double()
        for parameter in module.parameters():
            nn.init.normal_(parameter, std=0.5)
    return module


def tokens(seed: int, count: int = 5) -> Tensor:
    return torch.randn(3, count, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_hand(attention: Attention, x_ND: Tensor) -> Tensor:
    """Returns the attention of one sequence, head after head and pair after pair."""
    rows = []
    for asking in x_ND:
        heads = []
        for head in range(2):
            part = slice(4 * head, 4 * head + 4)
            query = attention.query(asking)[part]
            scores = torch.stack([query @ attention.key(asked)[part] / 2 for asked in x_ND])
            if attention.kind == "relu":
                weights = [max(score, torch.zeros_like(score)) for score in scores]
            else:
                weights = list(scores.exp() / scores.exp().sum())
            values = [w * attention.value(asked)[part] for w, asked in zip(weights, x_ND, strict=True)]
            heads.append(sum(values, torch.zeros(4, dtype=torch.float64)))
        o = torch.cat(heads)
        if attention.kind == "relu":
            norm = attention.norm
            o = norm.scale * o / (o.square().mean() + 1e-8).sqrt() / (1 + torch.exp(-norm.gate * o))
        rows.append(attention.out(o))
    return torch.stack(rows)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", KINDS)
def test_attention_is_its_equations_pair_by_pair(kind: str, seed: int) -> None:
    attention, x = made(kind, seed), tokens(seed)
    torch.testing.assert_close(attention(x), torch.stack([by_hand(attention, one) for one in x]))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", KINDS)
def test_tokens_in_another_order_come_out_in_that_order(kind: str, seed: int) -> None:
    block, x = made(kind, seed, block=True), tokens(seed, 9)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(block(x[:, order]), block(x)[:, order])
    assert not torch.allclose(block(x[:, order]), block(x))


@pytest.mark.parametrize("seed", SEEDS)
def test_softmax_rows_sum_to_1_and_relus_have_zeros_and_no_sum(seed: int) -> None:
    x = tokens(seed, 40)
    soft, cut = (made(kind, seed).weights(x) for kind in KINDS[::-1])
    torch.testing.assert_close(soft.sum(dim=-1), torch.ones_like(soft[..., 0]))
    assert (soft > 0).all()
    assert (cut >= 0).all()
    assert 0.2 < float((cut == 0).double().mean()) < 0.8
    assert float(cut.sum(dim=-1).detach().std()) > 0.1


@pytest.mark.parametrize("seed", SEEDS)
def test_a_token_that_looks_at_nothing_gets_the_bias_and_finite_gradients(seed: int) -> None:
    attention = made("relu", seed)
    with torch.no_grad():
        attention.query.weight.zero_(), attention.query.bias.fill_(1)
        attention.key.weight.zero_(), attention.key.bias.fill_(-1)
    x = tokens(seed).requires_grad_()
    assert (attention.weights(x) == 0).all()
    out = attention(x)
    torch.testing.assert_close(out, attention.out.bias.expand_as(out))
    out.square().sum().backward()
    for tensor in (x, *attention.parameters()):
        assert tensor.grad is not None
        assert torch.isfinite(tensor.grad).all()


@pytest.mark.parametrize("size", [1e-18, 1.0, 1e15])
def test_the_norm_forgets_the_size_and_keeps_zeros(size: float) -> None:
    norm = GatedRMSNorm(6)
    o = torch.randn(4, 6, generator=torch.Generator().manual_seed(0)) * size
    out = norm(o)
    assert torch.isfinite(out).all()
    if size >= 1:
        assert torch.allclose(out, o / o.square().mean(dim=-1, keepdim=True).sqrt() * torch.sigmoid(o), atol=1e-6)
    assert (norm(torch.zeros(2, 6)) == 0).all()


def test_relu_has_two_numbers_a_feature_more_than_softmax() -> None:
    spec = ExpertSpec(in_shape=(1, 8, 8), num_classes=3, width=8)
    sizes = [sum(p.numel() for p in ReLAExpert(spec, attention=kind, layers=3).parameters()) for kind in KINDS]
    assert sizes[0] - sizes[1] == 3 * 2 * 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"attention": "linear"}, "relu, softmax, got 'linear'; hint"), ({"heads": 3}, "got 3; hint")],
)
def test_what_does_not_fit_is_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        ReLAExpert(ExpertSpec(in_shape=(1, 8, 8), num_classes=3, width=8), **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(("width", "heads"), [(0, 4), (64, 4), (6, 2), (5, 1)])
def test_as_many_heads_are_taken_as_divide_the_width(width: int, heads: int) -> None:
    expert = ReLAExpert(ExpertSpec(in_shape=(1, 8, 8), num_classes=3, width=width))
    assert [block.attention.heads for block in expert.blocks] == [heads, heads]
