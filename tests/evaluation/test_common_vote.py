"""The common expert's vote: a share of its probabilities in every prediction, held against plain sums."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fedmoe.evaluation.predictions import HeldAnswers, predictions_of
from fedmoe.evaluation.serving import Serving
from fedmoe.evaluation.zero_shot import ClientResult, serve_clients
from fedmoe.training.samples import ClientSamples
from tests.evaluation.test_zero_shot import CLASSES, POOL, client, gate_of, pool
from tests.small import run_small, small_config

VOTED = Serving(top_k=1, common_vote=0.5)
PRIOR = torch.tensor([0.55, 0.25, 0.15, 0.05], dtype=torch.float64)


def serve(seed: int, samples: ClientSamples, serving: Serving, common_BC: torch.Tensor) -> ClientResult:
    order = np.random.default_rng(seed).permutation(len(samples.y))
    ties = [np.random.default_rng(seed)]
    (result,) = serve_clients(gate_of(seed), pool(seed)[1], POOL, [samples], serving, PRIOR, ties, [order], [common_BC])
    return result


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("seed", range(4))
def test_probabilities_are_the_weighted_sum(seed: int, share: float) -> None:
    rng = torch.Generator().manual_seed(seed)
    scores_BK, logits_KBC = torch.randn(30, 2, generator=rng), torch.randn(2, 30, CLASSES, generator=rng)
    common_BC = 3 * torch.randn(30, CLASSES, generator=rng)
    held = HeldAnswers(scores_BK.argmax(dim=1), torch.softmax(scores_BK, dim=1), logits_KBC)
    alone = predictions_of(held, Serving(top_k=2))
    voted = predictions_of(held, Serving(top_k=2, common_vote=share), common_BC)
    assert voted.keys() == alone.keys() == {"zero_shot", "mixture"}
    for name, log_probs_BC in voted.items():
        expected = (1 - share) * alone[name].exp() + share * torch.softmax(common_BC, dim=1)
        torch.testing.assert_close(log_probs_BC.exp(), expected)


@pytest.mark.parametrize("seed", range(3))
def test_a_vote_of_nearly_all_is_the_common_expert_and_none_changes_nothing(seed: int) -> None:
    samples = client(seed)
    common_BC = 4 * torch.randn(len(samples.y), CLASSES, generator=torch.Generator().manual_seed(seed))
    with_none, without = (serve(seed, samples, Serving(top_k=2), own) for own in (common_BC, common_BC.flip(0)))
    assert with_none.accuracies == without.accuracies
    most = serve(seed, samples, Serving(top_k=2, common_vote=1 - 1e-12), common_BC)
    share = float((common_BC.argmax(dim=1) == samples.y).double().mean())
    assert most.accuracies["zero_shot"] == most.accuracies["mixture"] == share
    assert most.experts == without.experts, "it has no say in the routing"


@pytest.mark.parametrize("seed", range(3))
def test_a_cold_start_with_all_samples_is_the_ordinary_figure(seed: int) -> None:
    samples = client(seed)
    common_BC = 2 * torch.randn(len(samples.y), CLASSES, generator=torch.Generator().manual_seed(seed))
    serving = Serving(top_k=2, common_vote=0.4, cold_start=(1, len(samples.y)))
    result = serve(seed, samples, serving, common_BC)
    assert result.cold[str(len(samples.y))] == result.accuracies
    assert result.accuracies != serve(seed, samples, replace(serving, common_vote=0.0), common_BC).accuracies


def test_its_logits_must_be_given() -> None:
    with pytest.raises(ValueError, match="has a vote"):
        predictions_of(HeldAnswers(torch.zeros(3).long(), torch.ones(3, 1), torch.zeros(1, 3, 2)), VOTED)


def test_all_methods_of_a_run_have_it_and_the_common_expert_is_counted_for_each(tmp_path: Path) -> None:
    flower = "flwr.serverapp.strategy:FedAvg"
    config = small_config(evaluate__baselines=f"fedavg,{flower}", evaluate__cold_start="1000", num_server_rounds=2)
    without = run_small(tmp_path, settings=config)
    voted = run_small(tmp_path, settings=config | {"evaluate.common-vote": 0.99}, home=tmp_path / "home")
    alone, summary = (json.loads((run / "summary.json").read_text()) for run in (without, voted))
    common = summary["methods"]["common expert"]
    assert "The common expert has a vote of 99% in every prediction of every method." in summary["notes"]
    assert not any("vote" in note for note in alone["notes"])
    assert common == alone["methods"]["common expert"]
    for name in ("fedjets", "fedavg", "flwr_fedavg"):
        assert summary["methods"][name] != alone["methods"][name]
        assert summary["methods"][name]["zero_shot"]["mean"] == pytest.approx(common["plain"]["mean"], abs=0.02)
        assert summary["methods"][name]["zero_shot_em"]["mean"] == pytest.approx(common["em"]["mean"], abs=0.02)
        assert summary["cold_start"][name]["1000"]["zero_shot"] == summary["methods"][name]["zero_shot"]
        assert summary["bytes"]["by_method"][name]["once"] > 0
    assert alone["bytes"]["by_method"]["fedavg"]["once"] == 0
