"""The objectives' battery: one row a file in `fedmoe/training/objectives/`; a file without a row fails."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from fedmoe.federation.job import PARTS, ClientJob, Term
from fedmoe.federation.state import ServerState
from fedmoe.moe.construction import build_expert, build_gate
from fedmoe.moe.expert import Expert, ExpertSpec
from fedmoe.moe.gate import Gate, GateSpec
from fedmoe.moe.vectors import parts_of, to_vector
from fedmoe.references import known_names
from fedmoe.settings import TrainSettings
from fedmoe.training.attack import Span
from fedmoe.training.keeping import is_trained, kept_after, reach, start_of
from fedmoe.training.objective import Batch, LocalModel, load_objective
from fedmoe.training.objectives.control import Control
from fedmoe.training.optimiser import make_optimiser

CLASSES, BATCH, POOL, WIDTH = 5, 12, 4, 3


@dataclass(frozen=True)
class Row:
    """Arguments to try it with, and whether it moves experts and gate from where they start."""

    arguments: dict[str, Any] = field(default_factory=dict)
    experts: bool = True
    gate: bool = True


OBJECTIVES: dict[str, list[Row]] = {
    "anchor": [Row()],
    "control": [Row()],
    "dense": [Row(gate=False)],
    "drawn": [Row(gate=False)],
    "importance": [Row(experts=False)],
    "likelihood": [Row(gate=False)],
    "load": [Row(experts=False), Row({"deviation": 0.3}, experts=False)],
    "mixture": [Row({"output": o, "renormalise": r}) for o in ("probability", "logit") for r in (True, False)],
    "prox": [Row({"mu": 0.3}, experts=False, gate=False)],  # at its start the penalty is at its least
    "switch": [Row({"weight": 0.5}, experts=False)],
    "trades": [
        Row({"eps": 0.1, "step": 0.05}),
        Row({"eps": 0.1, "step": 0.05, "routing": 3.0, "output": "logit"}),
        Row({"eps": 0.1, "step": 0.05, "beta": 0.0, "routing": 3.0}, experts=False, gate=False),
    ],
}
ROWS = [(name, row) for name, rows in OBJECTIVES.items() for row in rows]


@dataclass(frozen=True, kw_only=True)
class Client(LocalModel):
    """A local model whose modules can be looked at."""

    modules: list[Expert]
    module: Gate | None


def local_model(held: tuple[int, ...] = (2, 0), seed: int = 0, gate: bool = True, prior: Any = None) -> Client:
    spec = ExpertSpec(in_shape=(1, 2, 2), num_classes=CLASSES, width=6)
    experts = [build_expert("mlp", spec, 100 * seed + i) for i in held]
    module = build_gate("mlp", GateSpec(in_features=WIDTH, num_experts=POOL, hidden=5), seed) if gate else None
    trained = [p for part in [*experts, *([module] if module else [])] for p in part.parameters()]
    start = [p.detach().clone() for p in trained]
    stream = torch.Generator().manual_seed(seed)
    ours, own = ([torch.randn(p.shape, generator=stream) for p in trained] for _ in range(2))
    return Client(
        experts=lambda x_BCHW: torch.stack([expert(x_BCHW) for expert in experts]),
        gate=module,
        expert_ids_K=torch.tensor(held),
        num_experts=POOL,
        trained=trained,
        start=lambda: start,
        log_prior_C=prior,
        memory={"control": own},
        shared={"control": ours},
        given={"shares": torch.tensor([0.3, 0.7])[: len(held)]},
        span=Span(torch.full((1, 1, 1), -3.0), torch.full((1, 1, 1), 3.0)),
        modules=experts,
        module=module,
    )


def batch(seed: int = 0, size: int = BATCH) -> Batch:
    stream = torch.Generator().manual_seed(seed)
    return Batch(
        torch.randn(size, 1, 2, 2, generator=stream),
        torch.randint(CLASSES, (size,), generator=stream),
        torch.randn(size, WIDTH, generator=stream),
    )


def loss_of(model: LocalModel, data: Batch, *terms: Term) -> Tensor:
    return load_objective(terms)(model, data)


def gradients(model: LocalModel, loss: Tensor) -> list[Tensor]:
    found = torch.autograd.grad(loss, list(model.trained), allow_unused=True)
    pairs = zip(found, model.trained, strict=True)
    return [torch.zeros_like(parameter) if grad is None else grad for grad, parameter in pairs]


def flat(parts: list[Tensor]) -> Tensor:
    return torch.cat([part.reshape(-1) for part in parts]) if parts else torch.zeros(0)


def test_every_objective_has_a_row() -> None:
    assert sorted(OBJECTIVES) == known_names("fedmoe.training.objectives")


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(("name", "row"), ROWS)
def test_the_loss_is_a_finite_scalar_with_finite_gradients(name: str, row: Row, seed: int) -> None:
    model = local_model(seed=seed)
    for size in (1, BATCH):
        loss = loss_of(model, batch(seed, size), Term(name, row.arguments))
        assert loss.shape == ()
        assert torch.isfinite(loss)
        assert all(torch.isfinite(grad).all() for grad in gradients(model, loss))


@pytest.mark.parametrize(("name", "row"), ROWS)
def test_the_loss_moves_what_it_should(name: str, row: Row) -> None:
    model = local_model()
    grads = gradients(model, loss_of(model, batch(), Term(name, row.arguments)))
    own = len(list(model.modules[0].parameters()))
    assert bool(flat(grads[:own]).abs().sum() > 0) == row.experts
    assert bool(flat(grads[2 * own :]).abs().sum() > 0) == row.gate


@pytest.mark.parametrize(("name", "row"), ROWS)
def test_the_loss_is_a_mean_over_samples(name: str, row: Row) -> None:
    model, data = local_model(), batch()
    twice = Batch(*(torch.cat([part, part]) for part in (data.x_BCHW, data.y_B, data.gate_BD)))
    term = Term(name, row.arguments)
    torch.testing.assert_close(loss_of(model, twice, term), loss_of(model, data, term))


@pytest.mark.parametrize(("name", "row"), ROWS)
def test_rows_that_only_fill_a_batch_up_do_not_count(name: str, row: Row) -> None:
    model, data = local_model(), batch()
    few = Batch(*(part[:7] for part in (data.x_BCHW, data.y_B, data.gate_BD)))
    filled = replace(data, weight_B=(torch.arange(BATCH) < 7).float())
    term = Term(name, row.arguments)
    torch.testing.assert_close(loss_of(model, filled, term), loss_of(model, few, term))


@pytest.mark.parametrize("output", ["probability", "logit"])
@pytest.mark.parametrize("seed", range(3))
def test_a_mixture_of_one_expert_is_the_dense_loss(seed: int, output: str) -> None:
    model, data = local_model(held=(1,), seed=seed), batch(seed)
    dense = loss_of(model, data, Term("dense"))
    mixture = loss_of(model, data, Term("mixture", {"output": output}))
    torch.testing.assert_close(mixture, dense)
    torch.testing.assert_close(flat(gradients(model, mixture)), flat(gradients(model, dense)))


@pytest.mark.parametrize("renormalise", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_a_mixture_is_the_likelihood_of_the_weighted_output(seed: int, renormalise: bool) -> None:
    model, data = local_model(held=(3, 1), seed=seed), batch(seed)
    got = loss_of(model, data, Term("mixture", {"renormalise": renormalise}))
    assert model.gate is not None
    scores = model.gate.scores(data.gate_BD).detach().double().numpy()
    powers = np.exp(scores)[:, [3, 1]]
    weights = powers / (powers if renormalise else np.exp(scores)).sum(axis=1, keepdims=True)
    outputs = [expert(data.x_BCHW).detach().double().softmax(1).numpy() for expert in model.modules]
    likelihood = sum(weights[:, [k]] * outputs[k] for k in range(2))[np.arange(BATCH), data.y_B.numpy()]
    assert float(got.detach()) == pytest.approx(-np.log(likelihood).mean(), rel=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_the_order_in_which_experts_are_held_does_not_matter_to_a_mixture(seed: int) -> None:
    data, one = batch(seed), local_model(held=(3, 1), seed=seed)
    two = replace(one, experts=lambda x: one.experts(x).flip(0), expert_ids_K=torch.tensor((1, 3)))
    torch.testing.assert_close(loss_of(one, data, Term("mixture")), loss_of(two, data, Term("mixture")))


@pytest.mark.parametrize("seed", range(3))
def test_an_anchors_two_losses_do_not_mix(seed: int) -> None:
    model, data = local_model(held=(2,), seed=seed), batch(seed)
    assert model.gate is not None
    together = gradients(model, loss_of(model, data, Term("anchor")))
    expert = cross_entropy(model.modules[0](data.x_BCHW), data.y_B)
    gate = cross_entropy(model.gate.scores(data.gate_BD), torch.full((BATCH,), 2))
    own = len(list(model.modules[0].parameters()))
    torch.testing.assert_close(flat(together[:own]), flat(list(torch.autograd.grad(expert, model.trained[:own]))))
    torch.testing.assert_close(flat(together[own:]), flat(list(torch.autograd.grad(gate, model.trained[own:]))))


@pytest.mark.parametrize("seed", range(3))
def test_an_anchors_labels_teach_the_gate_and_leave_the_expert_alone(seed: int) -> None:
    model, data = local_model(held=(2,), seed=seed), batch(seed)
    own = len(list(model.modules[0].parameters()))
    without = gradients(model, loss_of(model, data, Term("anchor")))
    taught = gradients(model, loss_of(model, data, Term("anchor", {"gate_labels": True})))
    torch.testing.assert_close(flat(taught[:own]), flat(without[:own]))
    assert (flat(taught[own:]) - flat(without[own:])).abs().max() > 1e-6


def test_the_gate_of_an_anchor_learns_its_expert() -> None:
    model, data = local_model(held=(2,)), batch()
    assert model.gate is not None
    sgd = torch.optim.SGD(model.module.parameters(), lr=0.5)
    for _ in range(60):
        sgd.zero_grad()
        loss_of(model, data, Term("anchor")).backward()
        sgd.step()
    assert (model.gate.scores(data.gate_BD).argmax(dim=1) == 2).all()


@pytest.mark.parametrize("name", ["anchor", "mixture"])
def test_a_loss_that_routes_needs_a_gate(name: str) -> None:
    with pytest.raises(ValueError, match=r"gate.*hint"):
        loss_of(local_model(gate=False), batch(), Term(name))


@pytest.mark.parametrize("mu", [0.0, 0.1, 2.0])
@pytest.mark.parametrize("gate", [True, False])
def test_the_gradient_of_prox_is_mu_times_the_way_from_the_start(mu: float, gate: bool) -> None:
    model = local_model(gate=gate)
    with torch.no_grad():
        for index, parameter in enumerate(model.trained):
            parameter.add_(0.1 * (index + 1))
    loss = loss_of(model, batch(), Term("prox", {"mu": mu}))
    way = flat([w.detach() - w0 for w, w0 in zip(model.trained, model.start(), strict=True)])
    torch.testing.assert_close(loss.detach(), mu / 2 * way.square().sum())
    torch.testing.assert_close(flat(gradients(model, loss)), mu * way)


@pytest.mark.parametrize("name", ["dense", "anchor", "mixture"])
def test_terms_add_up(name: str) -> None:
    model, data = local_model(), batch()
    with torch.no_grad():
        for parameter in model.trained:
            parameter.add_(0.05)
    parts = [Term(name), Term("prox", {"mu": 0.7})]
    both = loss_of(model, data, *parts)
    torch.testing.assert_close(both, loss_of(model, data, parts[0]) + loss_of(model, data, parts[1]))


@pytest.mark.parametrize("name", ["dense", "anchor", "mixture"])
def test_logit_adjustment_adds_the_log_of_the_clients_prior(name: str) -> None:
    prior = torch.tensor([0.5, 0.3, 0.2, 1e-8, 1e-8])
    plain, data = local_model(held=(1,)), batch()
    adjusted = replace(plain, log_prior_C=prior.log())
    assert adjusted.gate is not None
    expected = cross_entropy(plain.modules[0](data.x_BCHW) + prior.log(), data.y_B)
    if name == "anchor":
        expected = expected + cross_entropy(adjusted.gate.scores(data.gate_BD), torch.full((BATCH,), 1))
    torch.testing.assert_close(loss_of(adjusted, data, Term(name)), expected)
    assert not torch.isclose(loss_of(plain, data, Term(name)), expected)


def test_a_uniform_prior_adjusts_nothing() -> None:
    plain, data = local_model(), batch()
    adjusted = replace(plain, log_prior_C=torch.full((CLASSES,), 1 / CLASSES).log())
    for name in ("dense", "anchor", "mixture"):
        torch.testing.assert_close(loss_of(adjusted, data, Term(name)), loss_of(plain, data, Term(name)))


# ---- what a client remembers ---------------------------------------------------------------------


@pytest.mark.parametrize("gate", [True, False])
def test_the_gradient_of_control_is_what_the_client_lacks_of_everybody(gate: bool) -> None:
    model = local_model(gate=gate)
    lacks = flat([ours - own for ours, own in zip(model.shared["control"], model.memory["control"], strict=True)])
    torch.testing.assert_close(flat(gradients(model, loss_of(model, batch(), Term("control")))), lacks)


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_reach_is_how_far_sgd_moves_under_a_gradient_of_one(steps: int, momentum: float, nesterov: bool) -> None:
    settings = TrainSettings(learning_rate=0.3, momentum=momentum, nesterov=nesterov, gate_momentum=0.0)
    value = torch.zeros(1, requires_grad=True)
    sgd = make_optimiser(settings, [[value]], [])
    for _ in range(steps):
        value.grad = torch.ones(1)
        sgd.step()
    assert reach(settings, steps, gate=False) == pytest.approx(-float(value.detach()), rel=1e-5)
    assert reach(settings, steps, gate=True) == pytest.approx(steps * settings.gate_learning_rate)


@pytest.mark.parametrize("seed", range(3))
def test_a_clients_control_is_the_mean_of_its_own_gradients(seed: int) -> None:
    """With `K eta` as in the paper: what SGD adds up is eta times the corrected gradients."""
    rng = np.random.default_rng(seed)
    own_gradients, eta = rng.standard_normal((5, 8)), 0.1
    ours, own = rng.standard_normal((2, 8))
    moved = eta * (own_gradients - own + ours).sum(axis=0)
    new, change = Control().after(moved, {"control": ours}, {"control": own}, 5 * eta)
    np.testing.assert_allclose(new["control"], own_gradients.mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(change["control"], new["control"] - own)


def test_what_is_not_trained_has_not_moved_whatever_its_statistics_did() -> None:
    spec = ExpertSpec(in_shape=(1, 8, 8), num_classes=CLASSES, width=4, norm="batch")
    expert = build_expert("resnet8", spec, 0)
    vector = to_vector(expert)
    state = ServerState(gate=None, experts=(vector,))
    for trains in (PARTS, ("head",)):
        job = ClientJob(
            client_id=0,
            round_num=1,
            experts=(0,),
            objective=(Term("control"),),
            gate=False,
            trains=trains,
            memory=("control",),
            shared=("control",),
        )
        start = start_of(job, state, {}, expert, None)
        outcome = kept_after(job, [Control()], start, [vector - 1], expert, None, TrainSettings(), 3)
        moved = outcome.kept["memory/control/expert/0"] != 0
        wanted = {part.name for part in parts_of(expert) if is_trained(part, job, gate=False)}
        assert 0 < len(wanted) < len(parts_of(expert))
        for part in parts_of(expert):
            assert (moved[part.offset : part.offset + part.size] == (part.name in wanted)).all(), part.name


@pytest.mark.parametrize("seed", range(3))
def test_the_gradient_of_the_likelihood_is_that_of_the_losses_weighted_by_responsibilities(seed: int) -> None:
    model, data = local_model(held=(3, 1), seed=seed), batch(seed)
    logits_KBC = torch.stack([expert(data.x_BCHW) for expert in model.modules])
    losses_KB = torch.stack([cross_entropy(own, data.y_B, reduction="none") for own in logits_KBC])
    share_K1 = torch.tensor([[0.3], [0.7]])
    weights_KB = share_K1 * (-losses_KB.detach()).exp()
    weighted = (weights_KB / weights_KB.sum(dim=0) * losses_KB).sum(dim=0).mean()
    likelihood = loss_of(model, data, Term("likelihood"))
    torch.testing.assert_close(flat(gradients(model, likelihood)), flat(gradients(model, weighted)))
    torch.testing.assert_close(likelihood, -weights_KB.sum(dim=0).log().mean())
