"""What holds for every test: one torch thread, no telemetry, folders of its own instead of the person's."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

# Before anything imports torch or flwr, for both read the environment as they are imported; doctests of a module are
# collected, and so imported, right after this file. Processes that a test starts inherit all of it.
_scratch = tempfile.TemporaryDirectory(prefix="fedmoe-tests-")
os.environ |= {
    "FEDMOE_HOME": str(Path(_scratch.name) / "fedmoe"),
    "FLWR_HOME": str(Path(_scratch.name) / "flwr"),
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DISABLE_IMPORT_WARNING": "1",
    "HF_HUB_OFFLINE": "1",
    "MPLBACKEND": "agg",
    "OMP_NUM_THREADS": "1",
}


# Warnings are errors. These are of other people's code about other people's code, and say nothing about ours.
FOREIGN = ("ignore:'click\\.:DeprecationWarning",)  # typer, as it is imported


def pytest_configure(config: pytest.Config) -> None:
    for line in FOREIGN:
        config.addinivalue_line("filterwarnings", line)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """The whole is shared out among the cores, up to four: a worker takes 1.5 GB. A part runs in this process."""
    whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS
    return min(4, os.cpu_count() or 1) if whole else 0


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Sums of torch have the same bits on every machine, and several test runs can share two cores."""
    import torch

    torch.set_num_threads(1)
    yield
    _scratch.cleanup()
