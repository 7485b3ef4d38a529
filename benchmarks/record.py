"""The JSON of a benchmark: what was measured, on what, with which versions and at which commit."""

import importlib.metadata
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fedmoe.recording.environment import describe_environment

__all__ = ["environment", "write"]

PEERS = ("pfl",)  # packages that fedmoe itself does not know


def environment() -> dict[str, Any]:
    """Returns versions (the peers' too; `None`: not installed), commit, platform, CPU, memory in bytes, GPUs."""
    facts = describe_environment()
    facts["versions"] = facts["versions"] | {name: _version(name) for name in PEERS}
    return facts


def write(path: Path, benchmark: str, facts: Mapping[str, Any], results: Mapping[str, Any]) -> None:
    """Writes one benchmark's record as JSON; folders above it are made.

    Args:
        path: the file; an older one is replaced.
        benchmark: its name, `throughput` for example.
        facts: how it was run: settings, threads, environment variables.
        results: what came out, all raw seconds among it.
    """
    table = {
        "benchmark": benchmark,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": environment(),
        "facts": dict(facts),
        "results": dict(results),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(table, indent=2, allow_nan=False) + "\n")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
