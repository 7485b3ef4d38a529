"""Best-response layers and the expert built of one: their formula, what chance does, and what it does not."""

import pytest
import torch
from torch import nn
from torch.func import functional_call, vmap

from fedmoe.errors import SettingsError
from fedmoe.moe.best_response import BestResponse
from fedmoe.moe.construction import build_expert
from fedmoe.moe.expert import ExpertSpec
from fedmoe.moe.experts.best_response import MOST, BestResponseExpert

SPEC = ExpertSpec(in_shape=(2, 3, 4), num_classes=5, width=300)


def layer(seed: int = 0, factors: float = 1.0) -> BestResponse:
    torch.manual_seed(seed)
    made = BestResponse(4, 3, 2)
    with torch.no_grad():
        made.factors.mul_(100 * factors)
        made.scale.fill_(0.7)
    return made


def expert(**arguments: float) -> BestResponseExpert:
    made = build_expert("best_response", ExpertSpec(**{**vars(SPEC), "arguments": arguments}), 0)
    assert isinstance(made, BestResponseExpert)
    return made


@pytest.mark.parametrize("seed", range(3))
def test_the_layer_is_its_formula_sample_by_sample(seed: int) -> None:
    own, stream = layer(seed), torch.Generator().manual_seed(seed)
    x_BI, hyper_BH = torch.randn(6, 4, generator=stream), torch.randn(6, 2, generator=stream)
    y_BO = own(x_BI, hyper_BH)
    for x_I, hyper_H, y_O in zip(x_BI, hyper_BH, y_BO, strict=True):
        for out in range(3):
            of_weight, of_bias = own.factors[out] @ hyper_H, own.factors[3 + out] @ hyper_H
            expected = own.scale[0] * (own.weight[out] @ x_I + own.bias[out])
            expected = expected + of_weight * (own.response_weight[out] @ x_I) + of_bias * own.response_bias[out]
            torch.testing.assert_close(y_O[out], expected)
    without_bias = y_BO - own(torch.zeros(6, 4), hyper_BH)
    torch.testing.assert_close(without_bias, torch.einsum("boi,bi->bo", own.weights(hyper_BH), x_BI))
    torch.testing.assert_close(own(x_BI, hyper_BH[:1]), own(x_BI, hyper_BH[:1].expand(6, 2)))


def test_without_hyper_parameters_it_is_a_linear_layer() -> None:
    own, x_BI = layer(), torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        own.scale.fill_(1)
    plain = nn.Linear(4, 3)
    plain.load_state_dict({"weight": own.weight, "bias": own.bias})
    torch.testing.assert_close(own(x_BI), plain(x_BI))
    torch.testing.assert_close(own(x_BI, torch.zeros(6, 2)), plain(x_BI))
    assert sum(p.numel() for p in own.parameters()) == 2 * sum(p.numel() for p in plain.parameters()) + 6 * 2 + 1


def test_the_expert_starts_at_the_rate_that_is_asked_for_and_moves_by_its_pace() -> None:
    slow, fast = expert(rate=0.25, pace=1.0), expert(rate=0.25, pace=3.0)
    for own in (slow, fast):
        assert float(own.rate_of(own.pace * own.hyper.detach())) == pytest.approx(0.25)
        with torch.no_grad():
            own.hyper.add_(0.1)
    moved = [float(torch.logit(own.rate_of(own.pace * own.hyper.detach()) / MOST)) for own in (slow, fast)]
    start = float(torch.logit(torch.tensor(0.25 / MOST)))
    assert (moved[1] - start) / (moved[0] - start) == pytest.approx(3, rel=1e-3)


@pytest.mark.parametrize(
    "wrong", [{"rate": 0.0}, {"rate": 0.9}, {"spread": 0.0}, {"pace": -1.0}], ids=lambda wrong: next(iter(wrong))
)
def test_wrong_arguments_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(SettingsError, match=f"best_response.*{next(iter(wrong))}"):
        expert(**wrong)


def test_numbers_by_lot_leave_out_the_share_that_the_rate_says_and_keep_the_mean() -> None:
    own = expert(rate=0.4, spread=1e-6)
    x_BCHW = torch.ones(400, 2, 3, 4)
    lots_BL = torch.rand(400, own.draws, generator=torch.Generator().manual_seed(0))
    seen: list[torch.Tensor] = []
    own.head.register_forward_pre_hook(lambda module, given: seen.append(given[0].detach()))
    own.body.register_forward_pre_hook(lambda module, given: seen.append(given[0].detach()))
    own(x_BCHW, lots_BL)
    kept_BI, units_BD = seen
    assert float((kept_BI == 0).float().mean()) == pytest.approx(0.4, abs=0.02)
    assert float(kept_BI.mean()) == pytest.approx(1.0, abs=0.03)
    torch.testing.assert_close(
        kept_BI[kept_BI > 0], torch.full((int((kept_BI > 0).sum()),), 1 / 0.6), rtol=1e-4, atol=0
    )
    alive_D = own.embed(x_BCHW[:1])[0] > 0.2
    assert float((units_BD[:, alive_D] == 0).float().mean()) == pytest.approx(0.4, abs=0.1)


def test_without_numbers_nothing_is_drawn_and_with_the_same_ones_the_same_comes_out() -> None:
    own = expert(rate=0.4)
    x_BCHW = torch.randn(8, 2, 3, 4, generator=torch.Generator().manual_seed(0))
    lots_BL = torch.rand(8, own.draws, generator=torch.Generator().manual_seed(1))
    state = torch.random.get_rng_state()
    assert torch.equal(own.train()(x_BCHW), own.eval()(x_BCHW))
    assert torch.equal(own(x_BCHW, lots_BL), own(x_BCHW, lots_BL))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not torch.equal(own(x_BCHW, lots_BL), own(x_BCHW))
    for edge in (0.0, 1 - 2**-24):
        assert torch.isfinite(own(x_BCHW, torch.full_like(lots_BL, edge))).all()


def test_the_hyper_parameter_is_drawn_around_where_it_stands() -> None:
    own = expert(rate=0.3, spread=0.5)
    seen: list[torch.Tensor] = []
    own.body.register_forward_pre_hook(lambda module, given: seen.append(given[1].detach()))
    own(torch.zeros(4000, 2, 3, 4), torch.rand(4000, own.draws, generator=torch.Generator().manual_seed(0)))
    assert float(seen[0].mean()) == pytest.approx(float(own.pace * own.hyper.detach()), abs=0.03)
    assert float(seen[0].std()) == pytest.approx(0.5, abs=0.03)


def test_many_copies_at_once_are_each_copy() -> None:
    own = expert(rate=0.3)
    x, lots = torch.randn(3, 4, 2, 3, 4), torch.rand(3, 4, own.draws)
    copies = {name: torch.stack([value + 0.01 * n for n in range(3)]) for name, value in own.named_parameters()}
    together = vmap(lambda tensors, *given: functional_call(own, tensors, given))(copies, x, lots)
    for n in range(3):
        alone = functional_call(own, {name: value[n] for name, value in copies.items()}, (x[n], lots[n]))
        torch.testing.assert_close(together[n], alone, rtol=1e-4, atol=1e-5)
