"""What a run ran on: versions, commit, hardware."""

import importlib.metadata
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import fedmoe

__all__ = ["describe_environment"]

PACKAGES = ("fedmoe", "flwr", "flwr-datasets", "ray", "torch", "torchvision", "numpy", "safetensors")


def describe_environment(facts: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Returns the table for `environment.json`: versions, git commit, platform, CPU, memory in bytes, GPUs.

    Args:
        facts: more to put down, such as `data_fingerprint`, `partition_hash` and `device`.
    """
    return {
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES},
        "commit": _commit(Path(fedmoe.__file__)),
        "platform": platform.platform(),
        "cpu": {"model": _cpu_model(), "cores": os.cpu_count(), "usable_cores": _usable_cores()},
        "memory_bytes": _memory_bytes(),
        "gpus": _gpus(),
        **(facts or {}),
    }


def _version(package: str) -> str | None:
    # From the metadata, not by import: Ray takes seconds to import, and flwr has one door only.
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit(file: Path) -> str | None:
    """Returns the commit that `file` is of, with "+changes" if tracked files were edited; None outside of git."""
    git = shutil.which("git")
    if git is None:
        return None

    def ask(*words: str) -> str | None:
        try:
            done = subprocess.run(  # noqa: S603 - fixed words, no shell
                [git, "-C", str(file.parent), *words], capture_output=True, text=True, timeout=10, check=True
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    # An installed copy may lie inside the checkout of something else, whose commit would say nothing about it.
    if ask("ls-files", "--error-unmatch", file.name) is None:
        return None
    commit = ask("rev-parse", "HEAD")
    return f"{commit}+changes" if commit and ask("status", "--porcelain", "--untracked-files=no") else commit


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _usable_cores() -> int | None:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def _gpus() -> list[dict[str, Any]]:
    if not torch.cuda.is_available():
        return []
    devices = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return [{"name": device.name, "memory_bytes": device.total_memory} for device in devices]
