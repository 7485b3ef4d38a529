"""Gates that leave some samples to the common expert, served: sample after sample by hand, and the cold start."""

import numpy as np
import pytest
import torch

from fedmoe.evaluation.serving import Serving
from fedmoe.evaluation.zero_shot import ClientResult, serve_clients
from fedmoe.moe.construction import build_gate
from fedmoe.moe.gate import Gate, GateSpec
from fedmoe.training.samples import ClientSamples
from tests.evaluation.test_zero_shot import CLASSES, POOL, PRIOR, SIZE, WIDTH, client, pool


def rectified(seed: int, common: float) -> Gate:
    arguments = {"bias": -0.5, "common": common}
    return build_gate("relu", GateSpec(in_features=WIDTH, num_experts=POOL, hidden=6, arguments=arguments), seed)


def common_logits(seed: int) -> torch.Tensor:
    return 2 * torch.randn(SIZE, CLASSES, generator=torch.Generator().manual_seed(seed + 99))


def serve(seed: int, samples: ClientSamples, gate: Gate, serving: Serving, common: bool = True) -> ClientResult:
    logits = [common_logits(seed)] if common else []
    order = np.random.default_rng(seed).permutation(SIZE)
    ties = [np.random.default_rng(0)]
    (result,) = serve_clients(gate, pool(seed)[1], POOL, [samples], serving, PRIOR, ties, [order], logits)
    return result


@pytest.mark.parametrize("common", [0.0, 0.3])
@pytest.mark.parametrize("seed", range(5))
def test_what_the_gate_leaves_the_common_expert_answers(seed: int, common: float) -> None:
    samples, gate, (experts, _) = client(seed), rectified(seed, common), pool(seed)
    result = serve(seed, samples, gate, Serving(top_k=3))
    best, mixture, routed = [], [], np.zeros((POOL, CLASSES), dtype=int)
    with torch.no_grad():
        scores_BM = gate.scores(samples.gate_input).numpy()
        logits = [expert(samples.inputs(slice(None))) for expert in experts]
    beside = torch.softmax(common_logits(seed), dim=1).numpy()
    for n, label in enumerate(samples.y.tolist()):
        rectified_K = np.maximum(scores_BM[n, list(result.experts)], 0)
        whole = common + rectified_K.sum()
        weights_K = rectified_K / whole if whole else rectified_K
        told = [torch.softmax(logits[i][n], dim=0).numpy() for i in result.experts]
        rest = 1 - weights_K.sum()
        mixture.append((sum(w * p for w, p in zip(weights_K, told, strict=True)) + rest * beside[n]).argmax())
        first = weights_K.argmax()
        if weights_K[first] >= rest:
            routed[result.experts[first], label] += 1
            best.append(told[first].argmax())
        else:
            best.append(beside[n].argmax())
    hits = [np.mean(np.array(own) == samples.y.numpy()) for own in (best, mixture)]
    assert [result.accuracies["zero_shot"], result.accuracies["mixture"]] == pytest.approx(hits)
    np.testing.assert_array_equal(result.routed_MC, routed)
    assert routed.sum() < SIZE, "the common expert answers some"


@pytest.mark.parametrize("seed", range(3))
def test_a_cold_start_with_all_samples_is_the_ordinary_figure(seed: int) -> None:
    result = serve(seed, client(seed), rectified(seed, 0.0), Serving(top_k=2, cold_start=(1, SIZE)))
    assert result.cold[str(SIZE)] == result.accuracies
    assert result.cold["1"].keys() == result.accuracies.keys()


def test_one_expert_and_the_common_expert_make_a_mixture() -> None:
    assert "mixture" in serve(0, client(0), rectified(0, 0.0), Serving(top_k=1)).accuracies


def test_its_logits_must_be_given() -> None:
    with pytest.raises(ValueError, match="falls back on the common expert"):
        serve(0, client(0), rectified(0, 0.0), Serving(top_k=2), common=False)
