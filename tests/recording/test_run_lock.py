"""A run folder has one writer: a second one is refused until the first has ended, however it ended."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedmoe.errors import RunFolderError
from fedmoe.recording.run_lock import only_writer
from tests.small import run_small, small_config

HOLD = """
import os, sys, time
from pathlib import Path
from fedmoe.recording.run_lock import only_writer
with only_writer(Path(sys.argv[1])):
    child = os.fork()
    if child:
        print(child, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def held(tmp_path: Path) -> Iterator[tuple[Path, subprocess.Popen[bytes]]]:
    """A folder that another process holds, which has a child of its own."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    child = int(process.stdout.readline())
    yield tmp_path, process
    process.kill()
    process.wait()
    process.stdout.close()
    os.kill(child, signal.SIGKILL)


def test_a_second_process_is_refused_until_the_first_is_killed_whatever_its_children_do(
    held: tuple[Path, "subprocess.Popen[bytes]"],
) -> None:
    folder, process = held
    with pytest.raises(RunFolderError, match="one process at a time"), only_writer(folder):
        pass
    process.kill()
    process.wait()
    with only_writer(folder) as warnings:
        assert warnings == []


def test_a_resumed_run_does_not_write_beside_another_one(tmp_path: Path) -> None:
    run = run_small(tmp_path, settings=small_config())
    before = (run / "summary.json").stat().st_mtime_ns
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(run)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    child = int(process.stdout.readline())
    with pytest.raises(RunFolderError, match="another one is writing"):
        run_small(tmp_path, settings=small_config(resume=str(run)))
    assert (run / "summary.json").stat().st_mtime_ns == before
    process.kill()
    process.wait()
    process.stdout.close()
    os.kill(child, signal.SIGKILL)
    run_small(tmp_path, settings=small_config(resume=str(run)))


def test_where_there_are_no_locks_the_run_goes_on_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "lockf", refuse)
    with only_writer(tmp_path) as warnings:
        assert "no lock keeps a second process from this folder" in warnings[0]
