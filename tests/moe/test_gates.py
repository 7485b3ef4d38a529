"""The gates' battery: one row a file in `fedmoe/moe/gates/`; a file without a row fails."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from fedmoe.evaluation.ranking import client_scores
from fedmoe.federation.assignment import top_k
from fedmoe.moe.construction import build_gate, gate_class
from fedmoe.moe.gate import Gate, GateSpec
from fedmoe.moe.vectors import load_vector, to_vector, vector_size
from fedmoe.references import known_names
from fedmoe.training.samples import Lots

NUM_EXPERTS, WIDTH, BATCH = 5, 7, 40


@dataclass(frozen=True)
class Row:
    """What is particular about a gate.

    Attributes:
        trains: it learns.
        softmax: its weights are the softmax of the held scores.
        shifts: one vector may be added to all experts' rows without changing a weight: it names `shift_rows`.
    """

    trains: bool = False
    softmax: bool = True
    shifts: bool = False


GATES = {
    "adaptive_threshold": Row(trains=True, softmax=False, shifts=True),
    "conv_router": Row(trains=True),
    "cosine": Row(trains=True),
    "discriminant": Row(),
    "expert_choice": Row(trains=True, softmax=False, shifts=True),
    "frozen": Row(shifts=True),
    "grkan": Row(trains=True),
    "grn": Row(trains=True),
    "gumbel": Row(trains=True, shifts=True),
    "mlp": Row(trains=True, shifts=True),
    "noisy_top_k": Row(trains=True, softmax=False, shifts=True),
    "noisy_top1": Row(trains=True, softmax=False, shifts=True),
    "oracle": Row(),
    "random": Row(),
    "relu": Row(trains=True, softmax=False),
    "softmax": Row(trains=True, shifts=True),
    "top_k": Row(trains=True, softmax=False, shifts=True),
    "top_p": Row(trains=True, softmax=False, shifts=True),
    "uniform": Row(),
}


class Methods(torch.nn.Module):
    """A gate whose scores can be had functionally."""

    def __init__(self, gate: Gate) -> None:
        super().__init__()
        self.gate = gate

    def forward(self, x_BD: Tensor) -> Tensor:
        return self.gate.scores(x_BD)


def make(name: str, seed: int = 0, num_experts: int = NUM_EXPERTS) -> Gate:
    reads = gate_class(name).reads
    if reads == "image":
        spec = GateSpec(in_features=32, num_experts=num_experts, hidden=6, in_shape=(2, 4, 4))
    else:
        width = WIDTH if reads in ("embedding", "fingerprint") else num_experts
        spec = GateSpec(in_features=width, num_experts=num_experts, hidden=6)
    return build_gate(name, spec, seed)


def inputs_for(gate: Gate, seed: int = 0) -> Tensor:
    stream = torch.Generator().manual_seed(seed)
    if gate.reads == "group":
        groups = torch.randint(gate.spec.in_features, (BATCH,), generator=stream)
        return torch.nn.functional.one_hot(groups, gate.spec.in_features).float()
    if gate.reads == "lot":
        return Lots(seed, gate.spec.num_experts).draw(BATCH)
    read_BD = torch.randn(BATCH, gate.spec.in_features, generator=stream)
    return torch.cat([read_BD, Lots(seed, gate.spec.num_experts, gate.draws).numbers(BATCH)], dim=1)


def masks() -> Iterator[Tensor]:
    for bits in range(1, 2**NUM_EXPERTS):
        yield torch.tensor([bool(bits >> i & 1) for i in range(NUM_EXPERTS)])


def test_every_gate_has_a_row() -> None:
    assert sorted(GATES) == known_names("fedmoe.moe.gates")


def check_weights(gate: Gate, x_BD: Tensor) -> None:
    """The rule of weights, for all sets of held experts."""
    for held_M in masks():
        routing = gate(x_BD, held_M)
        held = int(held_M.sum())
        assert routing.logits_BM.shape == (BATCH, NUM_EXPERTS)
        assert routing.expert_ids_BK.shape == routing.weights_BK.shape == (BATCH, held)
        assert torch.isfinite(routing.logits_BM).all()
        assert held_M[routing.expert_ids_BK].all(), "an expert that is not held was chosen"
        assert all(len(set(row)) == held for row in routing.expert_ids_BK.tolist())
        assert (routing.weights_BK >= 0).all()
        sums_B = routing.weights_BK.sum(dim=1)
        assert (sums_B <= 1 + 1e-6).all()
        if not gate.falls_back:
            torch.testing.assert_close(sums_B, torch.ones(BATCH))
        assert (routing.weights_BK.diff(dim=1) <= 0).all(), "experts must come best first"


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", GATES)
def test_weights_sum_to_one_or_less_and_fall_on_held_experts_alone(name: str, seed: int) -> None:
    gate = make(name, seed)
    check_weights(gate, inputs_for(gate, seed))


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", GATES)
def test_merging_two_clients_copies_keeps_the_rule(name: str, seed: int) -> None:
    sent = to_vector(make(name, seed))
    rng = np.random.default_rng(seed)
    ends = [sent + rng.normal(0, 0.3, sent.size).astype(np.float32) for _ in range(2)]  # each client's way from there
    merged, again = make(name, 7), make(name, 8)
    for gate in (merged, again):
        load_vector(gate, ((ends[0] + ends[1]) / 2).astype(np.float32))
    x_BD = inputs_for(merged, seed)
    check_weights(merged, x_BD)
    assert torch.equal(merged.scores(x_BD), again.scores(x_BD)), "what is not in the vector must not count"
    load_vector(merged, ends[0])
    load_vector(again, ((ends[0] + ends[0]) / 2).astype(np.float32))
    assert torch.equal(merged.scores(x_BD), again.scores(x_BD)), "equal copies merge into themselves"


@pytest.mark.parametrize("name", [name for name, row in GATES.items() if row.softmax])
def test_the_weights_are_the_softmax_of_the_held_scores(name: str) -> None:
    gate = make(name)
    routing = gate(inputs_for(gate), torch.tensor([True, False, True, True, False]))
    for logits_M, ids_K, weights_K in zip(routing.logits_BM, routing.expert_ids_BK, routing.weights_BK, strict=True):
        powers = np.exp(logits_M[ids_K].detach().double().numpy())
        np.testing.assert_allclose(weights_K.detach().numpy(), powers / powers.sum(), rtol=1e-5)


@pytest.mark.parametrize("name", GATES)
def test_without_a_mask_the_whole_pool_is_held(name: str) -> None:
    gate = make(name)
    free = gate(inputs_for(gate))
    masked = gate(inputs_for(gate), torch.ones(NUM_EXPERTS, dtype=torch.bool))
    assert torch.equal(free.expert_ids_BK, masked.expert_ids_BK)
    assert torch.equal(free.weights_BK, masked.weights_BK)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", GATES)
def test_permuting_samples_permutes_routings(name: str, seed: int) -> None:
    gate = make(name, seed)
    x_BD = inputs_for(gate, seed)
    order = torch.randperm(BATCH, generator=torch.Generator().manual_seed(seed))
    held_M = torch.tensor([True, True, False, True, False])
    plain = gate(x_BD, held_M)
    permuted = gate(x_BD[order], held_M)
    assert torch.equal(permuted.expert_ids_BK, plain.expert_ids_BK[order])
    torch.testing.assert_close(permuted.weights_BK, plain.weights_BK[order])


@pytest.mark.parametrize("name", GATES)
def test_one_expert_gets_all_the_weight(name: str) -> None:
    gate = make(name, num_experts=1)
    routing = gate(inputs_for(gate))
    assert torch.equal(routing.expert_ids_BK, torch.zeros(BATCH, 1, dtype=torch.int64))
    if not gate.falls_back:
        torch.testing.assert_close(routing.weights_BK, torch.ones(BATCH, 1))


@pytest.mark.parametrize("name", GATES)
def test_a_gate_is_its_vector(name: str) -> None:
    gate, other = make(name, 0), make(name, 1)
    vector = to_vector(gate)
    assert vector.dtype == np.float32
    assert vector.shape == (vector_size(gate),)
    load_vector(other, vector)
    assert to_vector(other).tobytes() == vector.tobytes()
    assert torch.equal(gate.scores(inputs_for(gate)), other.scores(inputs_for(gate)))


@pytest.mark.parametrize("name", GATES)
def test_gradients_reach_all_that_trains_and_nothing_else(name: str) -> None:
    gate = make(name)
    loss = gate.scores(inputs_for(gate))[:, 0].logsumexp(0) - gate.scores(inputs_for(gate)).square().mean()
    trainable = [parameter for parameter in gate.parameters() if parameter.requires_grad]
    assert bool(trainable) == GATES[name].trains
    assert loss.requires_grad == GATES[name].trains
    if trainable:
        loss.backward()
    for parameter in trainable:
        assert parameter.grad is not None
        assert torch.isfinite(parameter.grad).all()
        assert parameter.grad.abs().sum() > 0


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", GATES)
def test_gradients_of_the_weights_are_finite_and_reach_what_the_row_says(name: str, seed: int) -> None:
    gate = make(name, seed).train()
    x_BD, stream = inputs_for(gate, seed), torch.Generator().manual_seed(seed)
    for parameter in gate.parameters():  # some start at 0, or a sigmoid at its middle
        parameter.data.add_(0.3 * torch.randn(parameter.shape, generator=stream))
    held_K = torch.tensor([3, 0, 4, 1])
    weights_BK = gate.weigh(gate.scores(x_BD), held_K)
    loss = (weights_BK * torch.randn(weights_BK.shape, generator=stream)).sum()
    assert loss.requires_grad == GATES[name].trains
    if not GATES[name].trains:
        return
    loss.backward()
    for label, parameter in gate.named_parameters():
        assert parameter.grad is not None, label
        assert torch.isfinite(parameter.grad).all(), label
        assert parameter.grad.abs().sum() > 1e-6, label


@pytest.mark.parametrize("name", GATES)
def test_the_same_seed_gives_the_same_routing_however_often_it_is_asked(name: str) -> None:
    first, second = make(name, 4), make(name, 4)
    first.scores(inputs_for(first, 1))
    one, two = first(inputs_for(first)), second(inputs_for(second))
    assert torch.equal(one.expert_ids_BK, two.expert_ids_BK)
    assert torch.equal(one.weights_BK, two.weights_BK)


@pytest.mark.parametrize("name", GATES)
def test_building_a_gate_leaves_the_global_stream_alone(name: str) -> None:
    before = torch.random.get_rng_state()
    gate = make(name, 3)
    gate.scores(inputs_for(gate))
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", GATES)
def test_many_clients_gates_as_one_program_score_as_each_does_alone(name: str, seed: int) -> None:
    gates = [make(name, 10 * seed + client) for client in range(4)]
    x_GBD = torch.stack([inputs_for(gate, 20 * seed + client) for client, gate in enumerate(gates)])
    parameters, buffers = torch.func.stack_module_state(gates)

    held_GK = torch.tensor([[0, 1], [4, 2], [3, 0], [1, 3]])
    methods = Methods(gates[0])

    def weights(own: dict[str, Tensor], kept: dict[str, Tensor], x_BD: Tensor, held_K: Tensor) -> tuple[Tensor, Tensor]:
        named = {f"gate.{key}": value for key, value in (own | kept).items()}
        logits_BM: Tensor = torch.func.functional_call(methods, named, (x_BD,))
        return logits_BM, gates[0].weigh(logits_BM, held_K)

    stacked = torch.func.vmap(weights)(parameters, buffers, x_GBD, held_GK)
    for logits_BM, weights_BK, gate, x_BD, held_K in zip(*stacked, gates, x_GBD, held_GK, strict=True):
        torch.testing.assert_close(logits_BM, gate.scores(x_BD))
        torch.testing.assert_close(weights_BK, gate.weigh(gate.scores(x_BD), held_K))


def test_random_rankings_are_roughly_uniform_over_streams() -> None:
    gate, streams = make("random"), 600
    firsts, pairs = np.zeros(NUM_EXPERTS), np.zeros((NUM_EXPERTS, NUM_EXPERTS))
    for seed in range(streams):
        held = top_k(
            client_scores(gate.scores(inputs_for(gate, seed)), "mean-probability"), 2, np.random.default_rng(seed)
        )
        firsts[held[0]] += 1
        pairs[held[0], held[1]] += 1
    expected = streams / NUM_EXPERTS
    # chi-square with 4 degrees of freedom lies below 18.5 in 999 of 1000 fair lotteries
    assert ((firsts - expected) ** 2 / expected).sum() < 18.5
    off_diagonal = pairs[~np.eye(NUM_EXPERTS, dtype=bool)]
    assert off_diagonal.min() > 0.4 * streams / len(off_diagonal)


def test_a_random_gate_spreads_samples_over_the_held_experts() -> None:
    gate, counts = make("random"), np.zeros(NUM_EXPERTS)
    held_M = torch.tensor([False, True, False, True, False])
    for seed in range(200):
        counts += np.bincount(gate(inputs_for(gate, seed), held_M).expert_ids_BK[:, 0].numpy(), minlength=NUM_EXPERTS)
    assert counts[[0, 2, 4]].sum() == 0
    assert abs(counts[1] / counts.sum() - 0.5) < 0.05


@pytest.mark.parametrize(("num_groups", "num_experts"), [(5, 5), (3, 5), (7, 5)])
def test_the_oracle_picks_the_groups_expert(num_groups: int, num_experts: int) -> None:
    gate = build_gate("oracle", GateSpec(in_features=num_groups, num_experts=num_experts, hidden=1), 0)
    groups = torch.arange(num_groups)
    routing = gate(torch.eye(num_groups))
    assert torch.equal(routing.expert_ids_BK[:, 0], groups % num_experts)
    assert (routing.weights_BK[:, 0] > 0.999).all()


def test_a_uniform_gate_gives_equal_weights() -> None:
    gate = make("uniform")
    routing = gate(inputs_for(gate), torch.tensor([True, True, True, False, True]))
    assert torch.equal(routing.weights_BK, torch.full((BATCH, 4), 0.25))
