"""The experts' battery: one row a file in `fedmoe/moe/experts/`; a file without a row fails."""

import copy
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedmoe.errors import SettingsError
from fedmoe.moe.construction import build_expert, expert_reads, is_head_alone, stands_on_common, takes_lots
from fedmoe.moe.expert import Expert, ExpertSpec
from fedmoe.moe.vectors import load_vector, tensors_of, to_vector, vector_size
from fedmoe.references import known_names


@dataclass(frozen=True)
class Row:
    """What is particular about an expert.

    Attributes:
        shape: of an input to try it on.
        reads: images, or the common expert's embeddings.
        norms: it has normalisations, of the kind that `norm` asks for.
        lots: it takes numbers by lot in training.
    """

    shape: tuple[int, int, int]
    reads: str = "image"
    norms: bool = False
    lots: bool = False


EXPERTS = {
    "best_response": Row((2, 3, 4), lots=True),
    "channel_group": Row((2, 8, 8), norms=True),
    "cnn": Row((1, 8, 8)),
    "expanded": Row((2, 3, 4)),
    "head": Row((7, 1, 1), reads="embedding"),
    "linear": Row((2, 3, 4)),
    "low_rank": Row((2, 8, 8)),
    "mixer": Row((2, 8, 8)),
    "mlp": Row((2, 3, 4)),
    "ninformer": Row((2, 8, 8)),
    "rela": Row((1, 8, 12)),
    "patch_cubic": Row((2, 3, 5)),
    "patch_linear": Row((1, 4, 5)),
    "patch_sum": Row((2, 2, 4)),
    "resnet8": Row((3, 8, 8), norms=True),
    "resnet18": Row((3, 16, 16), norms=True),
    "resnet34": Row((1, 16, 16), norms=True),
}
NORMS = ("group", "batch")
CLASSES, BATCH = 6, 5


def make(name: str, norm: str = "group", seed: int = 0, width: int = 4) -> Expert:
    spec = ExpertSpec(in_shape=EXPERTS[name].shape, num_classes=CLASSES, width=width, norm=norm)
    common = build_expert("cnn", spec, 77).requires_grad_(False) if stands_on_common(name) else None
    return build_expert(name, replace(spec, common=common), seed)


def inputs_for(name: str, seed: int = 0) -> Tensor:
    return torch.randn(BATCH, *EXPERTS[name].shape, generator=torch.Generator().manual_seed(seed))


def has_batch_norm(expert: Expert) -> bool:
    return any(isinstance(module, nn.BatchNorm2d) for module in expert.modules())


def test_every_expert_has_a_row() -> None:
    assert sorted(EXPERTS) == known_names("fedmoe.moe.experts")


@pytest.mark.parametrize("name", EXPERTS)
def test_an_expert_is_what_its_row_says(name: str) -> None:
    assert expert_reads(name) == EXPERTS[name].reads
    assert takes_lots(name) == EXPERTS[name].lots
    assert not is_head_alone(name) or EXPERTS[name].reads == "embedding"


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", EXPERTS)
def test_logits_are_the_head_of_the_embedding(name: str, norm: str) -> None:
    expert, x_BCHW = make(name, norm).eval(), inputs_for(name)
    embedding_BD = expert.embed(x_BCHW)
    assert embedding_BD.shape == (BATCH, expert.embedding_dim)
    assert expert(x_BCHW).shape == (BATCH, CLASSES)
    assert torch.equal(expert.head(embedding_BD), expert(x_BCHW))
    assert (expert.head.in_features, expert.head.out_features) == (expert.embedding_dim, CLASSES)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", EXPERTS)
def test_gradients_reach_every_parameter(name: str, norm: str) -> None:
    expert = make(name, norm)
    stream = torch.Generator().manual_seed(0)
    for parameter in expert.parameters():  # a low-rank correction starts at 0, where one of its factors has no gradient
        parameter.data.add_(0.01 * torch.randn(parameter.shape, generator=stream))
    nn.functional.cross_entropy(expert(inputs_for(name)), torch.arange(BATCH)).backward()
    for label, parameter in expert.named_parameters():
        assert parameter.grad is not None, label
        assert torch.isfinite(parameter.grad).all(), label
        assert parameter.grad.abs().sum() > 0, label


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", EXPERTS)
def test_an_expert_is_its_vector(name: str, norm: str) -> None:
    one, other = make(name, norm, seed=0), make(name, norm, seed=1)
    one.train()(inputs_for(name))  # moves BatchNorm's statistics away from those of a fresh module
    vector = to_vector(one)
    assert vector.dtype == np.float32
    assert vector.shape == (vector_size(one),)
    assert vector.tobytes() != to_vector(other).tobytes()
    load_vector(other, vector)
    assert to_vector(other).tobytes() == vector.tobytes()
    assert torch.equal(one.eval()(inputs_for(name, 1)), other.eval()(inputs_for(name, 1)))


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", EXPERTS)
def test_merging_two_clients_copies_keeps_the_rule(name: str, norm: str, seed: int) -> None:
    ends, x_BCHW = [], inputs_for(name, seed)
    for client in range(2):
        own = make(name, norm, seed)
        stream = torch.Generator().manual_seed(10 * seed + client)
        for parameter in own.parameters():
            parameter.data.add_(0.1 * torch.randn(parameter.shape, generator=stream))
        own.train()(inputs_for(name, 5 + client))  # its running statistics, too, are its own
        ends.append(to_vector(own))
    merged = make(name, norm, seed + 5).eval()
    load_vector(merged, ((ends[0] + ends[1]) / 2).astype(np.float32))
    embedding_BD, logits_BC = merged.embed(x_BCHW), merged(x_BCHW)
    assert embedding_BD.shape == (BATCH, merged.embedding_dim)
    assert logits_BC.shape == (BATCH, CLASSES)
    assert torch.isfinite(logits_BC).all()
    assert torch.equal(merged.head(embedding_BD), logits_BC)
    assert all((module.running_var >= 0).all() for module in merged.modules() if isinstance(module, nn.BatchNorm2d))
    alone = torch.cat([merged(x_BCHW[row : row + 1]) for row in range(BATCH)])
    torch.testing.assert_close(alone, logits_BC, rtol=1e-4, atol=1e-5)
    twin = make(name, norm, seed + 6).eval()
    load_vector(twin, ((ends[0] + ends[0]) / 2).astype(np.float32))
    load_vector(merged, ends[0])
    assert torch.equal(twin(x_BCHW), merged(x_BCHW)), "equal copies merge into themselves"


@pytest.mark.parametrize("seed", range(3))
def test_low_rank_copies_merge_factor_by_factor_which_is_not_the_mean_correction(seed: int) -> None:
    stream, ends = torch.Generator().manual_seed(seed), []
    for _ in range(2):
        own = make("low_rank", seed=seed)
        for parameter in own.parameters():
            parameter.data.add_(0.2 * torch.randn(parameter.shape, generator=stream))
        ends.append(own)
    merged = make("low_rank", seed=seed)
    load_vector(merged, ((to_vector(ends[0]) + to_vector(ends[1])) / 2).astype(np.float32))
    for name in merged.up:
        ups, downs = [own.up[name].detach() for own in ends], [own.down[name].detach() for own in ends]
        corrections = [up @ down for up, down in zip(ups, downs, strict=True)]
        served = (merged.up[name] @ merged.down[name]).detach()
        torch.testing.assert_close(served, (ups[0] + ups[1]) @ (downs[0] + downs[1]) / 4)
        # what it misses is a product of how far the clients are apart: nothing where one factor is common
        missed = (ups[0] - ups[1]) @ (downs[0] - downs[1]) / 4
        torch.testing.assert_close((corrections[0] + corrections[1]) / 2 - served, missed)
        assert missed.abs().max() > 1e-3
        assert torch.linalg.matrix_rank(served) <= 4, "the mean correction would need twice the rank"


@pytest.mark.parametrize("name", EXPERTS)
def test_a_vector_holds_parameters_and_running_statistics(name: str) -> None:
    expert = make(name, "batch")
    parameters = sum(parameter.numel() for parameter in expert.parameters())
    statistics = sum(2 * module.num_features for module in expert.modules() if isinstance(module, nn.BatchNorm2d))
    assert vector_size(expert) == parameters + statistics
    assert has_batch_norm(expert) == EXPERTS[name].norms
    assert not has_batch_norm(make(name, "group"))


@pytest.mark.parametrize("name", EXPERTS)
def test_a_vector_is_a_copy(name: str) -> None:
    expert = make(name)
    vector = to_vector(expert)
    before = vector.copy()
    with torch.no_grad():
        for tensor in tensors_of(expert):
            tensor.add_(1)
    assert np.array_equal(vector, before)
    load_vector(expert, vector)
    vector += 1
    assert to_vector(expert).tobytes() == before.tobytes()


@pytest.mark.parametrize("off_by", [-1, 1])
def test_a_vector_of_another_size_is_refused(off_by: int) -> None:
    expert = make("mlp")
    with pytest.raises(ValueError, match=r"vector of shape \(\d+,\) was expected"):
        load_vector(expert, np.zeros(vector_size(expert) + off_by, dtype=np.float32))


@pytest.mark.parametrize("name", EXPERTS)
def test_weights_depend_on_the_seed_alone(name: str) -> None:
    state = torch.random.get_rng_state()
    one = to_vector(make(name, seed=5))
    torch.rand(3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(torch.random.get_rng_state(), state), "building an expert moved the global stream"
    assert one.tobytes() == to_vector(make(name, seed=5)).tobytes()
    assert one.tobytes() != to_vector(make(name, seed=6)).tobytes()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", EXPERTS)
def test_a_sample_is_served_alone_as_in_a_batch(name: str, norm: str) -> None:
    expert, x_BCHW = make(name, norm).eval(), inputs_for(name)
    alone = torch.cat([expert(x_BCHW[row : row + 1]) for row in range(BATCH)])
    torch.testing.assert_close(alone, expert(x_BCHW), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "embedding"),
    [("mlp", 9), ("expanded", 9), ("mixer", 9), ("ninformer", 9), ("resnet8", 9 * 4), ("resnet18", 9 * 8)],
)
def test_width_scales_the_embedding(name: str, embedding: int) -> None:
    assert make(name, width=9).embedding_dim == embedding


def test_the_default_resnet8_has_as_many_weights_as_it_says() -> None:
    spec = ExpertSpec(in_shape=(3, 32, 32), num_classes=10)
    assert round(vector_size(build_expert("resnet8", spec, 0)), -3) == 78_000


@pytest.mark.parametrize("common", ["cnn", "mlp", "resnet8"])
@pytest.mark.parametrize("rank", [1, 3])
def test_low_rank_experts_start_as_the_common_expert_and_correct_it_by_the_formula(common: str, rank: int) -> None:
    spec = ExpertSpec(in_shape=(2, 8, 8), num_classes=CLASSES, width=6)
    base = build_expert(common, spec, 5).eval()
    before = to_vector(base)
    expert = build_expert("low_rank", replace(spec, common=base, arguments={"rank": rank, "alpha": 2.0}), 1).eval()
    x_BCHW = inputs_for("low_rank", 3)
    torch.testing.assert_close(expert(x_BCHW), base(x_BCHW))
    stream = torch.Generator().manual_seed(1)
    for parameter in expert.parameters():
        parameter.data.add_(0.1 * torch.randn(parameter.shape, generator=stream))
    by_hand = copy.deepcopy(base)
    for name, layer in by_hand.named_modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)) and layer is not by_hand.head:
            up, down = (part[f"{name}_weight".replace(".", "_")] for part in (expert.up, expert.down))
            assert up.shape[1] <= rank
            layer.weight.data += (2.0 / rank) * (up @ down).detach().view_as(layer.weight)
    by_hand.head.load_state_dict(expert.head.state_dict())
    torch.testing.assert_close(expert(x_BCHW), by_hand(x_BCHW), rtol=1e-4, atol=1e-5)
    expert(x_BCHW).sum().backward()
    assert to_vector(base).tobytes() == before.tobytes()
    assert all(parameter.grad is None for parameter in base.parameters()), "the common expert is frozen"
    assert vector_size(expert) < vector_size(base) or rank > 1


def test_low_rank_experts_need_a_common_expert_and_a_rank() -> None:
    spec = ExpertSpec(in_shape=(2, 8, 8), num_classes=CLASSES)
    with pytest.raises(SettingsError, match="stand on a common expert, got none"):
        build_expert("low_rank", spec, 0)
    with pytest.raises(SettingsError, match=r"experts.low_rank.rank must be at least 1, got 0"):
        build_expert("low_rank", replace(spec, common=build_expert("mlp", spec, 0), arguments={"rank": 0}), 0)


def test_a_head_is_one_linear_layer_on_the_embedding() -> None:
    assert is_head_alone("head")
    head, embedding_BD = make("head"), inputs_for("head").flatten(1)
    assert vector_size(head) == 7 * CLASSES + CLASSES
    assert torch.equal(head.embed(inputs_for("head")), embedding_BD)
    assert torch.equal(head(inputs_for("head")), nn.functional.linear(embedding_BD, head.head.weight, head.head.bias))
