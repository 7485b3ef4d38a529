"""The JSON of a benchmark: what was measured, on what, with which versions and at which commit."""

import importlib.metadata
import json
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fedmoe.recording.environment import describe_environment

__all__ = ["add_arguments", "environment", "write"]

PEERS = ("pfl",)  # packages that fedmoe itself does not know
FOLDER = Path(__file__).parents[1] / "build" / "benchmarks"  # which git ignores


def add_arguments(parser: ArgumentParser) -> None:
    """Adds `--toy` and `--json`, which every benchmark has."""
    parser.add_argument("--toy", action="store_true", help="at a very small size, to see that all is well")
    parser.add_argument(
        "--json",
        type=Path,
        help="file to write what was measured to, in place of an older one; "
        "default: build/benchmarks/NAME.json in the checkout, NAME-toy.json with --toy",
    )


def environment() -> dict[str, Any]:
    """Returns versions (the peers' too; `None`: not installed), commit, platform, CPU, memory in bytes, GPUs."""
    facts = describe_environment()
    facts["versions"] = facts["versions"] | {name: _version(name) for name in PEERS}
    return facts


def write(asked: Namespace, benchmark: str, facts: Mapping[str, Any], results: Mapping[str, Any]) -> Path:
    """Writes one benchmark's record as JSON and returns its file; folders above it are made.

    Args:
        asked: what `add_arguments` has brought: where to, and whether at toy size.
        benchmark: its name, `throughput` for example.
        facts: how it was run: settings, threads, environment variables.
        results: what came out, all raw seconds among it.
    """
    path: Path = asked.json or FOLDER / f"{benchmark}{'-toy' if asked.toy else ''}.json"
    table = {
        "benchmark": benchmark,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": environment(),
        "facts": {"toy": asked.toy, **facts},
        "results": dict(results),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(table, indent=2, allow_nan=False) + "\n")
    return path


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
