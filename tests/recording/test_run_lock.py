"""A run folder has one writer: a second one is refused until the first has ended, however it ended."""

import errno
import fcntl
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fedmoe.errors import RunFolderError
from fedmoe.recording.run_lock import only_writer
from tests.small import run_small, small_config

HOLD = "import sys, time\nfrom pathlib import Path\nfrom fedmoe.recording.run_lock import only_writer\n"
HOLD += "with only_writer(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(600)\n"


def test_a_second_process_is_refused_until_the_first_one_is_killed(tmp_path: Path) -> None:
    first = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE)
    assert first.stdout is not None
    assert first.stdout.readline() == b"held\n"
    with pytest.raises(RunFolderError, match="one process at a time"), only_writer(tmp_path):
        pass
    first.send_signal(signal.SIGKILL)
    first.wait()
    first.stdout.close()
    with only_writer(tmp_path) as warnings:
        assert warnings == []


def test_a_resumed_run_does_not_write_beside_another_one(tmp_path: Path) -> None:
    run = run_small(tmp_path, settings=small_config())
    with only_writer(run), pytest.raises(RunFolderError, match="another one is writing"):
        run_small(tmp_path, settings=small_config(resume=str(run)))


def test_where_there_are_no_locks_the_run_goes_on_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: int) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with only_writer(tmp_path) as warnings:
        assert "no lock keeps a second process from this folder" in warnings[0]
