"""Chen et al.'s claim in a small version: routing needs nonlinear experts; and what the experiment is built of."""

from collections import Counter
from math import log
from pathlib import Path

import pytest
import torch

from benchmarks.theory.chen import EXPERIMENT, PUBLISHED
from benchmarks.theory.experiment import main
from benchmarks.theory.patch_pool import PAPER, RELEASED, Form, Pool, dispatch_entropy, fresh, pool_of, samples
from fedmoe.data.patch_law import LAWS

SEEDS = range(3)


@pytest.mark.parametrize("seed", SEEDS)
def test_setting_1_comes_out_as_published(seed: int) -> None:
    one = EXPERIMENT.measure("1: one cubic", seed, True)
    linear = EXPERIMENT.measure("1: pool of linear", seed, True)
    cubic = EXPERIMENT.measure("1: pool of cubic", seed, True)
    assert one["accuracy"] < 87.5
    assert 86 < linear["accuracy"] < 98
    assert linear["entropy"] > 1.0
    assert cubic["accuracy"] > 98
    assert cubic["accuracy"] > linear["accuracy"]
    assert cubic["entropy"] < 0.3


@pytest.mark.parametrize("seed", SEEDS)
def test_with_the_houses_gate_the_clusters_are_parted_too(seed: int) -> None:
    found = EXPERIMENT.measure("1: pool of cubic, gate `noisy_top1`", seed, True)
    assert found["accuracy"] > 95
    assert found["entropy"] < 0.7, "the linear pool, which does not part them, has more than 1"


def test_the_same_seed_gives_the_same_figures_and_another_seed_others() -> None:
    one, two, other = (EXPERIMENT.measure("1: pool of linear", seed, True) for seed in (0, 0, 1))
    assert one == two
    assert one != other


def test_every_published_figure_has_its_row() -> None:
    assert set(PUBLISHED) < set(EXPERIMENT.rows)
    assert len(EXPERIMENT.rows) == 4 * 4 + 3
    assert {row for row in EXPERIMENT.rows if row[3:6] == "one"} <= set(PUBLISHED)


def test_the_command_writes_table_and_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(vars(EXPERIMENT), "measure", lambda row, seed, small: {"accuracy": 90.0, "entropy": 0.5})
    main(EXPERIMENT, ["--output", str(tmp_path), "--small", "--seeds", "0..1"])
    assert "| 4: pool of cubic | 90.00 ± 0.00 | 0.500 ± 0.000 |" in (tmp_path / "chen-small.md").read_text()
    assert (tmp_path / "chen-small.png").stat().st_size > 10_000


# ---- what it is built of -------------------------------------------------------------------------


def entropy_slowly(clusters: list[int], experts: list[int]) -> float:
    """The reference, as the paper's code has it: each expert's entropy, weighted by its load."""
    total = 0.0
    for expert in set(experts):
        counts = Counter(k for k, m in zip(clusters, experts, strict=True) if m == expert)
        load = sum(counts.values())
        total += load / len(experts) * -sum(n / load * log(n / load) for n in counts.values())
    return total


@pytest.mark.parametrize("seed", SEEDS)
def test_dispatch_entropy_is_each_experts_weighted_by_its_load(seed: int) -> None:
    stream = torch.Generator().manual_seed(seed)
    cluster_N = torch.randint(4, (300,), generator=stream)
    expert_N = (cluster_N + torch.randint(1 + seed, (300,), generator=stream)) % 7
    wanted = entropy_slowly(cluster_N.tolist(), expert_N.tolist())
    assert dispatch_entropy(cluster_N, expert_N) == pytest.approx(wanted, abs=1e-9)
    assert dispatch_entropy(cluster_N, cluster_N + 3) == pytest.approx(0, abs=1e-9)
    assert dispatch_entropy(torch.arange(400) % 4, torch.arange(400) // 100) == pytest.approx(log(4))


@pytest.mark.parametrize(
    "form", [PAPER, RELEASED, Form(weighs_by_softmax=True, softmax_output=True, noise_at_test=True)]
)
@pytest.mark.parametrize("model", ["patch_linear", "patch_cubic"])
def test_a_pool_is_the_chosen_experts_output_times_its_weight(model: str, form: Form) -> None:
    given = samples(LAWS[1], 40, 3, "train")
    experts = [fresh(model, 2, given, 5, index) for index in range(3)]
    theta_MD = 0.05 * torch.randn(3, 50, generator=torch.Generator().manual_seed(6))
    with torch.no_grad():
        for expert in experts:
            for parameter in expert.parameters():
                parameter.mul_(100)
        got, chosen_N = Pool(experts, theta_MD, form).forward(given, torch.Generator().manual_seed(7))
        noise_NM = torch.rand(40, 3, generator=torch.Generator().manual_seed(7))
        for n in range(40):
            clean_M = theta_MD @ given.sum[n]
            noisy_M = clean_M + noise_NM[n]
            best = int(noisy_M.argmax())
            weight = torch.softmax(clean_M, 0)[best] if form.weighs_by_softmax else noisy_M[best]
            assert int(chosen_N[n]) == best
            torch.testing.assert_close(got[n], weight * experts[best](given.x[n : n + 1])[0], rtol=1e-4, atol=1e-6)
    assert len(set(chosen_N.tolist())) == 3
    assert not any(expert.head.weight.requires_grad for expert in experts)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_houses_gate_is_the_formula_but_for_the_noise_in_its_weight(seed: int) -> None:
    given = samples(LAWS[1], 60, seed, "train")
    experts = [fresh("patch_cubic", 2, given, seed, index) for index in range(4)]
    gated, plain = (pool_of(experts, PAPER, given.sum.shape[1], own) for own in (True, False))
    theta_MD = 0.05 * torch.randn(4, given.sum.shape[1], generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        for pool in (gated, plain):
            pool.theta_MD.copy_(theta_MD)
        served, expected = (pool.forward(given, None) for pool in (gated, plain))
        torch.testing.assert_close(served[0], expected[0])
        assert torch.equal(served[1], expected[1])
        weighs_NM, chosen_N = gated.route(given, torch.Generator().manual_seed(7))
        assert torch.equal(chosen_N, plain.route(given, torch.Generator().manual_seed(7))[1])
    noise_NM = torch.rand(60, 4, generator=torch.Generator().manual_seed(7))
    pi_NM = torch.softmax(given.sum @ theta_MD.T + noise_NM, dim=1)
    torch.testing.assert_close(weighs_NM.sum(dim=1), pi_NM.max(dim=1).values)
