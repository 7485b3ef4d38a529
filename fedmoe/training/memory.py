"""How much memory is free, and how it shows that there was too little."""

import os
from pathlib import Path

import torch

__all__ = ["free_bytes", "is_out_of_memory"]

MEMINFO = Path("/proc/meminfo")


def free_bytes(device: torch.device) -> int:
    """Returns the bytes that a program could still take on the device (on the CPU: without swapping)."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + cached
    if MEMINFO.exists():
        lines = dict(line.split(":", 1) for line in MEMINFO.read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def is_out_of_memory(error: BaseException) -> bool:
    """Returns whether the error says that memory ran out, on a GPU or in the CPU's allocator."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)
