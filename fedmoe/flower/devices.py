"""Which device a process computes on: chosen by itself, spread over what there is."""

import os
import threading
from pathlib import Path

import torch

from fedmoe.errors import SettingsError

__all__ = [
    "booked_cores",
    "choose_device",
    "idle_core_hint",
    "idle_gpu_hint",
    "set_up_torch",
    "usable_cores",
    "visible_gpus",
    "worker_count",
]


CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # microseconds of a period, or "max"


def set_up_torch(threads: int, deterministic: bool) -> None:
    """Fixes what the last bits of a result depend on in this process: torch's threads and cuDNN's choice of kernels."""
    torch.set_num_threads(threads)
    torch.backends.cudnn.deterministic = deterministic
    torch.backends.cudnn.benchmark = not deterministic


def usable_cores() -> int:
    """Returns the number of cores that this process may use: those it may run on, and its container's share of them."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, _, period = CPU_QUOTA.read_text().partition(" ") if CPU_QUOTA.exists() else ("max", "", "")
    return cores if quota == "max" else max(1, min(cores, -(-int(quota) // int(period))))


def visible_gpus(asked: str) -> int:
    """Returns how many GPUs the nodes of this process are dealt over, where `train.device` is what is asked."""
    return torch.cuda.device_count() if asked == "auto" else int(asked.startswith("cuda"))


def booked_cores() -> int:
    """Returns the cores that Flower's engine has booked for this process; 0 where it runs without Ray."""
    return int(os.environ.get("OMP_NUM_THREADS", "0")) if "RAY_JOB_ID" in os.environ else 0


def worker_count(asked: int, threads: int, device: torch.device) -> int:
    """Returns how many processes share a node's work.

    Args:
        asked: `train.workers`; 0: one for each `threads` of the cores that are the node's.
        threads: torch threads of each.
        device: where the node computes. A GPU is kept busy by one process. Nodes that are threads of one process (as
            with several GPUs) are workers themselves, whatever is asked: a fork would copy locks that others hold.
    """
    if threading.current_thread() is not threading.main_thread():
        return 1
    if asked > 0 or device.type != "cpu":
        return max(1, asked)
    return max(1, (booked_cores() or usable_cores()) // threads)


def choose_device(asked: str, partition_id: int | None) -> torch.device:
    """Returns the device.

    `"auto"`: a GPU where this process may see one (Ray shows a worker those that its `client-resources-num-gpus` pays
    for). Nodes are dealt over the visible GPUs by partition id, those with the most free memory (whole GiB) first; a
    process that is no node takes the first of these.

    Raises:
        SettingsError: a device is asked for by name that torch does not know or this process does not see.
    """
    if asked != "auto":
        return _named(asked)
    count = torch.cuda.device_count()
    if count == 0:
        return torch.device("cpu")
    free = [torch.cuda.mem_get_info(index)[0] for index in range(count)]
    emptiest_first = sorted(range(count), key=lambda index: (-(free[index] >> 30), index))
    return torch.device("cuda", emptiest_first[(partition_id or 0) % count])


def idle_gpu_hint(num_nodes: int, node_devices: list[str]) -> str | None:
    """Returns what to type when there are GPUs and no node uses one, or `None`."""
    count = torch.cuda.device_count()
    if count == 0 or any(device.startswith("cuda") for device in node_devices):
        return None
    share = min(1.0, count / max(1, num_nodes))
    return (
        f"{count} GPU(s) stand idle: type --federation-config "
        f'"num-supernodes={max(num_nodes, 4 * count)} client-resources-num-gpus={share / 2:g}"'
    )


def idle_core_hint(num_nodes: int, cores: int, cpus_per_node: int, busy: int) -> str | None:
    """Returns what to type when a federation's workers leave cores unused, or `None`.

    Args:
        num_nodes: SuperNodes of the federation.
        cores: cores of the machine that a worker may use.
        cpus_per_node: cores that Flower's engine books for a working node; 0 where it is not known (in process).
        busy: cores that a working node keeps busy: its workers x `train.threads`.
    """
    if cpus_per_node == 0:
        return None
    at_work = min(num_nodes, max(1, cores // cpus_per_node))
    if at_work * busy >= cores:
        return None
    return (
        f"{at_work * busy} of {cores} cores work: to use all, type --federation-config "
        f'"num-supernodes={cores // busy} client-resources-num-cpus={busy}"'
    )


def _named(asked: str) -> torch.device:
    try:
        device = torch.device(asked)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise SettingsError(
            f"train.device must be 'auto', 'cpu' or a GPU that is here, such as 'cuda:0', got '{asked}': {reason}"
        ) from error
    return device
