"""Which device a process takes, and what a person is told to type."""

import os
from pathlib import Path

import pytest
import torch

import fedmoe.flower.devices as devices
from fedmoe.errors import SettingsError
from fedmoe.flower.devices import choose_device, idle_core_hint, idle_gpu_hint


def with_gpus(monkeypatch: pytest.MonkeyPatch, free: list[int]) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(free))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (free[index], 100))


def test_without_a_gpu_it_is_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    with_gpus(monkeypatch, [])
    assert choose_device("auto", 3) == torch.device("cpu")
    assert idle_gpu_hint(2, ["cpu", "cpu"]) is None


def test_nodes_are_spread_over_the_gpus_the_emptiest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    with_gpus(monkeypatch, [10 << 30, 90 << 30, 50 << 30])
    assert [choose_device("auto", node).index for node in range(6)] == [1, 2, 0, 1, 2, 0]
    assert choose_device("auto", None) == torch.device("cuda", 1)
    assert choose_device("cpu", 0) == torch.device("cpu")


@pytest.mark.parametrize("asked", ["gpu", "cuda:7", "cuda"])
def test_a_device_that_is_not_here_is_refused(asked: str) -> None:
    if torch.cuda.is_available() and asked == "cuda":
        pytest.skip("this machine has a GPU")
    with pytest.raises(SettingsError, match=r"train\.device must be 'auto', 'cpu' or a GPU that is here"):
        choose_device(asked, 0)


def test_idle_gpus_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with_gpus(monkeypatch, [10, 10])
    hint = idle_gpu_hint(2, ["cpu", "cpu"])
    assert hint is not None
    assert "2 GPU(s) stand idle" in hint
    assert "client-resources-num-gpus" in hint
    assert idle_gpu_hint(2, ["cuda:0", "cpu"]) is None


@pytest.mark.parametrize(
    ("nodes", "cores", "cpus", "threads", "told"),
    [
        (2, 2, 2, 2, None),  # Flower's default on two cores: one worker at a time, two threads
        (2, 2, 2, 1, '"num-supernodes=2 client-resources-num-cpus=1"'),
        (2, 16, 2, 2, '"num-supernodes=8 client-resources-num-cpus=2"'),
        (8, 16, 2, 2, None),
        (2, 16, 0, 2, None),  # in process: nothing to book
    ],
)
def test_idle_cores_are_named(nodes: int, cores: int, cpus: int, threads: int, told: str | None) -> None:
    hint = idle_core_hint(nodes, cores, cpus, threads)
    assert hint is None if told is None else hint is not None and told in hint


@pytest.mark.parametrize(
    ("quota", "cores"), [("max 100000", 8), ("200000 100000", 2), ("150000 100000", 2), ("1000 100000", 1)]
)
def test_a_containers_share_of_the_cores_counts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, quota: str, cores: int
) -> None:
    (tmp_path / "cpu.max").write_text(quota + "\n")
    monkeypatch.setattr(devices, "CPU_QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8), raising=False)
    assert devices.usable_cores() == cores
