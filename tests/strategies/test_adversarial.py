"""AdvMoE's strategy: what each way of training moves, FedJETs where it is plain, and shared tensors that stay alike."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedmoe.errors import SettingsError
from fedmoe.federation.job import Term
from fedmoe.federation.shared import places_of
from fedmoe.flower.methods import build_strategy
from fedmoe.moe.construction import build_expert, shared_tensors
from fedmoe.moe.expert import ExpertSpec
from fedmoe.moe.vectors import parts_of
from strategies.advmoe import AdvMoE
from tests.small import newest_state, rounds_of, run_small, small_config, small_settings

CNN = {"experts__model": "cnn", "experts__width": 2, "num_server_rounds": 2}
GROUPS = CNN | {"experts__model": "channel_group", "experts__width": 4}


def strategy(**arguments: Any) -> AdvMoE:
    table = {f"strategy__advmoe__{key}": value for key, value in arguments.items()}
    found = build_strategy("advmoe", small_settings(strategy__name="advmoe", **CNN, **table))
    assert isinstance(found, AdvMoE)
    found.anchors = lambda: {4: 1}  # type: ignore[method-assign]
    return found


def test_joint_training_adds_the_term_to_fedjets_own_losses() -> None:
    ours = strategy(training="joint", eps=0.1, beta=2.0, routing=3.0)
    term = {"eps": 0.1, "step": 0.0625, "steps": 2, "beta": 2.0, "routing": 3.0, "output": "probability"}
    term["aim"] = "both"
    mixture = Term("mixture", {"output": "probability", "renormalise": True})
    assert ours.job(1, 7, (0, 2)).objective == (mixture, Term("trades", term))
    assert ours.job(1, 4, (1,)).objective == (Term("anchor", {"gate_labels": False}), Term("trades", term))


def test_joint_training_without_the_routers_term_attacks_the_output_alone() -> None:
    for training, aims in (("joint", ["output"]), ("alternating", ["both", "both"])):
        job = strategy(training=training, routing=0.0).job(1, 7, (0, 2))
        losses = [turn.objective for turn in job.turns] or [job.objective]
        assert [loss[-1].arguments["aim"] for loss in losses] == aims


@pytest.mark.parametrize(("client", "held"), [(7, (0, 2)), (4, (1,))])
def test_in_turn_the_experts_learn_first_and_the_router_alone_for_its_routing(
    client: int, held: tuple[int, ...]
) -> None:
    job = strategy(eps=0.1, routing=3.0).job(1, client, held)
    joint = strategy(eps=0.1, routing=3.0, training="joint").job(1, client, held)
    experts, router = job.turns
    assert job.objective == ()
    assert (experts.trains, router.trains) == (("body", "head"), ("gate",))
    assert router.objective == joint.objective
    assert experts.objective[0] == joint.objective[0]
    told = dict(experts.objective[1].arguments)
    assert told.pop("routing") == 0.0
    assert told | {"routing": 3.0} == joint.objective[1].arguments
    assert replace(job, turns=(), objective=joint.objective) == joint


@pytest.mark.parametrize("training", ["joint", "alternating"])
def test_it_warms_up_plainly(training: str) -> None:
    ours, plain = strategy(training=training, warm=2), strategy(training="plain")
    for round_num in (1, 2, 3):
        assert (ours.job(round_num, 7, (0, 2)) == plain.job(round_num, 7, (0, 2))) == (round_num < 3)


def test_plain_training_is_fedjets_with_that_router_bit_for_bit(tmp_path: Path) -> None:
    ours = run_small(
        tmp_path / "a", settings=small_config(**CNN, strategy__name="advmoe", strategy__advmoe__training="plain")
    )
    theirs = run_small(tmp_path / "b", settings=small_config(**CNN, gate__name="conv_router"), home=tmp_path / "a/home")
    told = [
        [{key: value for key, value in line.items() if key != "strategy"} for line in rounds_of(run)]
        for run in (ours, theirs)
    ]
    assert told[0] == told[1]
    one, two = newest_state(ours), newest_state(theirs)
    assert one.gate is not None
    assert two.gate is not None
    assert one.gate.tobytes() == two.gate.tobytes()
    assert [own.tobytes() for own in one.experts] == [own.tobytes() for own in two.experts]


def test_what_experts_share_is_alike_after_every_round_and_what_they_do_not_is_not(tmp_path: Path) -> None:
    state = newest_state(run_small(tmp_path, settings=small_config(**GROUPS, strategy__name="advmoe")))
    expert = build_expert("channel_group", ExpertSpec(in_shape=(1, 4, 4), num_classes=6, width=4), 0)
    shared = np.zeros(state.experts[0].size, dtype=bool)
    for place in places_of(parts_of(expert), shared_tensors("channel_group")):
        shared[place] = True
    assert 0 < shared.sum() < shared.size
    for other in state.experts[1:]:
        assert np.array_equal(other[shared], state.experts[0][shared])
        assert not np.array_equal(other[~shared], state.experts[0][~shared])


def test_an_expert_is_a_group_of_the_networks_channels() -> None:
    sizes = {}
    for ratio in (0.25, 0.5, 1.0):
        spec = ExpertSpec(in_shape=(1, 8, 8), num_classes=6, width=8, arguments={"ratio": ratio})
        sizes[ratio] = {part.name: part.shape for part in parts_of(build_expert("channel_group", spec, 0))}
    assert [own["stem.0.weight"] for own in sizes.values()] == [(8, 1, 3, 3)] * 3
    assert [own["groups.0.weight"] for own in sizes.values()] == [(4, 8, 3, 3), (8, 8, 3, 3), (16, 8, 3, 3)]
    assert [own["groups.1.weight"] for own in sizes.values()] == [(4, 4, 3, 3), (8, 8, 3, 3), (16, 16, 3, 3)]


@pytest.mark.parametrize("wrong", [{"ratio": 0.0}, {"ratio": 1.5}, {"layers": 0}, {"layers": 4}])
def test_groups_that_do_not_fit_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(SettingsError, match=r"experts.channel_group.*hint"):
        build_expert("channel_group", ExpertSpec(in_shape=(1, 8, 8), num_classes=6, arguments=wrong), 0)


def test_experts_that_read_no_image_are_refused() -> None:
    settings = small_settings(strategy__name="advmoe", experts__model="head", common_expert__model="mlp")
    with pytest.raises(SettingsError, match="advmoe attacks images"):
        strategy().check(settings)
