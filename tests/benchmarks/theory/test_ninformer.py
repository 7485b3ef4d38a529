"""The experiment on NiNformer, small: equal sizes, fewer operations, all of them learn."""

from pathlib import Path

import torch

from benchmarks.theory.classification import Recipe, fit, num_parameters, score, seeded, task_of
from benchmarks.theory.experiment import main
from benchmarks.theory.ninformer import EXPERIMENT, NETWORKS, closest
from fedmoe.moe.expert import ExpertSpec
from fedmoe.moe.experts.mixer import MixerExpert


def test_the_small_version(tmp_path: Path) -> None:
    results = main(EXPERIMENT, ["--output", str(tmp_path), "--seeds", "0", "--small"])
    ours, *mixers = (runs[0] for runs in results.values())
    for run in (ours, *mixers):
        assert run["digits accuracy"] > 88
        assert abs(run["digits parameters"] / ours["digits parameters"] - 1) < 0.01
    assert all(ours["digits operations"] < run["digits operations"] for run in mixers)
    assert (tmp_path / "ninformer-small.png").exists()


def test_the_mixers_differ_in_depth_and_width() -> None:
    spec = ExpertSpec(in_shape=(1, 28, 28), num_classes=10, width=32)
    depths = [len(make(spec).blocks) for make in NETWORKS.values()]
    assert depths == [2, 2, 4]
    sizes = [num_parameters(make(spec)) for make in NETWORKS.values()]
    assert max(sizes) - min(sizes) < 0.01 * sizes[0]


def test_the_closest_is_taken() -> None:
    spec = ExpertSpec(in_shape=(1, 8, 8), num_classes=2, width=8)
    sizes = {hidden: num_parameters(MixerExpert(spec, hidden=hidden)) for hidden in range(4, 20)}
    for wanted in (sizes[7] + 1, sizes[12], 0, 10**9):
        found = num_parameters(closest(wanted, lambda hidden: MixerExpert(spec, hidden=hidden), range(4, 20)))
        assert found == min(sizes.values(), key=lambda size: abs(size - wanted))


def test_training_is_the_same_for_the_same_seed_and_moves_nobody_elses_stream() -> None:
    task, state, ends = task_of("digits", 128, 100), torch.random.get_rng_state(), []
    for seed in (0, 0, 1):
        net = seeded(lambda: MixerExpert(task.spec), seed)
        before = score(net, task)["loss"]
        fit(net, task, Recipe(epochs=3), seed)
        ends.append(score(net, task)["loss"])
        assert ends[-1] < before
    assert ends[0] == ends[1] != ends[2]
    assert torch.equal(torch.random.get_rng_state(), state)
    assert len(task.y_N) == 128
    assert len(task.test_y_N) == 100
    assert abs(float(task.x_NCHW.mean())) < 1e-5
