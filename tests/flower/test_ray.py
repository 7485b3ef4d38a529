"""The whole thing as a person runs it: `flwr run` on Ray, with a SuperLink of the test's own; law 3 of the design."""

import csv
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from fedmoe.flower.local_run import run_locally
from tests.small import rounds_of

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="finds the SuperLink to end by /proc"),
]

QUICKSTART = Path(__file__).parents[2] / "simulations/quickstart"
REDUCED = (
    "num-server-rounds=2 clients.num=12 clients.per-round=6 clients.anchors-per-round=3 clients.unseen=2 "
    "common-expert.epochs=1 evaluate.every=1 evaluate.baselines='fedavg' train.trainer='stacked'"
)
PROMISED = {
    "": "simulation strategy dataset seed rounds unseen bytes seconds",
    "dataset": "name real fingerprint",
    "unseen": "clients accuracy_mean accuracy_std accuracy_worst_decile mixture_mean common_expert_mean",
    "bytes": "once down up",
    "seconds": "total round_median",
}
FILES = "settings.yaml rounds.jsonl summary.json environment.json partition.json clients.csv report.html"


def free_ports(num):
    with_listeners = [socket.socket() for _ in range(num)]
    for listener in with_listeners:
        listener.bind(("127.0.0.1", 0))
    ports = [listener.getsockname()[1] for listener in with_listeners]
    for listener in with_listeners:
        listener.close()
    return ports


def superlinks_of(flwr_home):
    """Returns the process ids of the SuperLinks that keep their log below this folder."""
    log_file = str(flwr_home / "local-superlink" / "superlink.log")
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue  # it has ended in the meantime
        if log_file in words and any(Path(word).name == "flower-superlink" for word in words):
            found.append(int(entry.parent.name))
    return found


def end(process_id):
    """Asks a process to end, and insists after 20 s."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + 20
        try:
            os.kill(process_id, sign)
            while time.monotonic() < deadline:
                os.kill(process_id, 0)
                time.sleep(0.2)
        except ProcessLookupError:
            return


@pytest.fixture(scope="module")
def on_ray(tmp_path_factory):
    """A run of the quickstart at reduced size by `flwr run`: its exit status, what it printed, and its run folder."""
    place = tmp_path_factory.mktemp("ray")
    control, http = free_ports(2)
    environment = os.environ | {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "FLWR_HOME": str(place / "flwr"),
        "FEDMOE_HOME": str(place / "fedmoe"),
        "FLWR_LOCAL_CONTROL_API_PORT": str(control),
        "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": str(http),
    }
    (place / "flwr").mkdir()
    command = ["flwr", "run", str(QUICKSTART), "--stream", "--run-config", f"{REDUCED} output-dir='{place / 'runs'}'"]
    try:
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=400
        )
    finally:
        mine = superlinks_of(place / "flwr")
        for process_id in mine:
            end(process_id)
    assert len(mine) == 1
    assert superlinks_of(place / "flwr") == []
    folders = list((place / "runs").glob("*"))
    assert len(folders) == 1, done.stdout + done.stderr
    return done, folders[0]


@pytest.fixture(scope="module")
def in_process(tmp_path_factory):
    """The run folder of the same settings in this process, on one node, with caches of its own."""
    place = tmp_path_factory.mktemp("local")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDMOE_HOME", str(place / "fedmoe"))
        run_locally(QUICKSTART, [f"{REDUCED} output-dir='{place / 'runs'}'"], None, 1)
    return next((place / "runs").iterdir())


def test_flwr_run_ends_well_and_says_where_the_run_folder_is(on_ray):
    done, folder = on_ray
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert done.stdout.count(str(folder)) == 2, "at the start and at the end"


def test_the_run_folder_is_whole(on_ray):
    _, folder = on_ray
    assert [name for name in FILES.split() if not (folder / name).is_file()] == []
    assert list((folder / "tensorboard").rglob("*tfevents*"))
    for method in (folder, folder / "baselines/fedavg"):
        assert [line["round"] for line in rounds_of(method)] == [1, 2]
        assert (method / "checkpoints/round-000002.safetensors").is_file()
    rows = list(csv.DictReader((folder / "clients.csv").read_text().splitlines()))
    assert [int(row["client_id"]) for row in rows] == list(range(14))


def test_the_summary_has_what_was_promised(on_ray):
    summary = json.loads((on_ray[1] / "summary.json").read_text())
    for table, keys in PROMISED.items():
        assert set(keys.split()) <= (summary[table] if table else summary).keys(), table
    assert summary["simulation"] == "quickstart"
    assert summary["strategy"] == "fedjets"
    assert summary["dataset"]["real"] is True
    assert summary["rounds"] == 2
    assert 0 < summary["unseen"]["accuracy_mean"] <= 1
    assert summary["bytes"]["down"] > 0


def test_two_nodes_on_ray_and_one_in_process_end_with_the_same_bytes(on_ray, in_process):
    folder = on_ray[1]
    for method in (".", "baselines/fedavg"):
        names = {path.name for path in (folder / method / "checkpoints").iterdir()}
        assert names == {path.name for path in (in_process / method / "checkpoints").iterdir()}
        for name in names:
            there, here = (run / method / "checkpoints" / name for run in (folder, in_process))
            assert there.read_bytes() == here.read_bytes(), f"{method} {name}"
        assert rounds_of(folder / method) == rounds_of(in_process / method)
    for name in ("clients.csv", "partition.json"):
        assert (folder / name).read_bytes() == (in_process / name).read_bytes(), name
    there, here = (OmegaConf.load(run / "settings.yaml") for run in (folder, in_process))
    there["output-dir"] = here["output-dir"]
    assert there == here
