"""The smallest whole runs: sixteen pixels, six classes, perceptrons of a few units, twelve clients, in process."""

import json
import os
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from flwr.app import Message

import fedmoe.flower.client_app as client
import fedmoe.flower.server_app as server
from fedmoe.data.contracts import Dataset, Deal, LoadRequest, Shares
from fedmoe.federation.state import ServerState
from fedmoe.flower.local_grid import LocalGrid
from fedmoe.recording.checkpoints import load_checkpoint
from fedmoe.seeding import numpy_stream
from fedmoe.settings import Settings, from_flat

NUM_CLASSES = 6

SMALL: dict[str, Any] = {
    "simulation": "small",
    "num-server-rounds": 3,
    "data.name": "tests.small:blobs",
    "data.public-samples": 60,
    "clients.num": 12,
    "clients.per-round": 5,
    "clients.anchors-per-round": 2,
    "clients.partition": "tests.small:ragged",
    "clients.unseen": 3,
    "common-expert.epochs": 2,
    "common-expert.learning-rate": 0.1,
    "gate.hidden": 4,
    "experts.num": 3,
    "experts.top-k": 2,
    "experts.width": 5,
    "train.batch-size": 8,
    "train.learning-rate": 0.05,
    "train.workers": 1,
    "train.threads": 1,
    "train.trainer": "loop",
    "train.device": "cpu",
    "evaluate.every": 2,
}
"""The flat settings of a small run: 12 clients (3 anchors), 5 of them a round, M=3, K=2."""


def blobs(request: LoadRequest) -> Dataset:
    """Noisy copies of one 4x4 picture a class; the same for every seed."""
    rng = np.random.default_rng(11)
    y_N = rng.permutation(np.repeat(np.arange(NUM_CLASSES), 120)).astype(np.int64)
    pictures = rng.uniform(40, 215, (NUM_CLASSES, 1, 4, 4))
    x_NCHW = np.clip(pictures[y_N] + rng.normal(0, 30, (len(y_N), 1, 4, 4)), 0, 255).astype(np.uint8)
    names = tuple(f"class {label}" for label in range(NUM_CLASSES))
    return Dataset(name="blobs", real=False, x_NCHW=x_NCHW, y_N=y_N, num_train=540, class_names=names)


def ragged(deal: Deal) -> Shares:
    """Clients of very different sizes, at least 8 samples each, and of few labels; unseen clients get what falls."""
    rng = numpy_stream(deal.seed, "ragged")
    by_label = deal.train_ids[np.lexsort([rng.random(len(deal.train_ids)), deal.labels_N[deal.train_ids]])]
    spare = len(by_label) - 8 * deal.num_clients
    sizes = 8 + rng.multinomial(spare, rng.dirichlet(np.ones(deal.num_clients)))
    return Shares(
        train=tuple(np.split(by_label, np.cumsum(sizes)[:-1])),
        unseen=tuple(np.array_split(rng.permutation(deal.test_ids), deal.num_unseen)),
    )


def small_config(**changes: Any) -> dict[str, Any]:
    """Returns `SMALL` with changes: `small_config(seed=1, experts__num=4, train__batch_size=2)`."""
    return SMALL | {name.replace("__", ".").replace("_", "-"): value for name, value in changes.items()}


def small_settings(**changes: Any) -> Settings:
    return from_flat(small_config(**changes))


def run_small(
    folder: Path,
    *,
    nodes: int = 2,
    grid: type[LocalGrid] = LocalGrid,
    settings: Mapping[str, Any] | None = None,
    home: Path | None = None,
) -> Path:
    """Returns the run folder of a whole run, which stands below `folder`, as do its caches unless `home` is given.

    Left out, for they would take most of the time: the report and TensorBoard, which are tested on their own, and that
    every message reads the settings anew.
    """
    config = dict(SMALL if settings is None else settings) | {"output-dir": str(folder / "runs")}
    with ExitStack() as stack:
        stack.enter_context(mock.patch.dict(os.environ, {"FEDMOE_HOME": str(home or folder / "home")}))
        stack.enter_context(mock.patch.object(server, "write_report"))
        stack.enter_context(mock.patch.object(server, "TensorBoardLogger"))
        stack.enter_context(mock.patch.object(client, "from_flat", return_value=from_flat(config)))
        return server.run(grid(client.app, nodes, config), config)


def rounds_of(method_folder: Path) -> list[dict[str, Any]]:
    """Returns the lines of `rounds.jsonl`, without the seconds."""
    lines = [json.loads(text) for text in (method_folder / "rounds.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def newest_bytes(method_folder: Path) -> bytes:
    """Returns the last checkpoint, byte for byte."""
    return max((method_folder / "checkpoints").iterdir()).read_bytes()


def newest_state(method_folder: Path) -> ServerState:
    """Returns the server's state in the last checkpoint; the moving average is left out."""
    arrays = load_checkpoint(max((method_folder / "checkpoints").iterdir())).arrays
    return ServerState.from_arrays({n: a for n, a in arrays.items() if not n.startswith("average/")})


class BackwardsGrid(LocalGrid):
    """A grid whose nodes are asked in the reverse order, and whose replies come in an order of their own."""

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        return super().push_messages(reversed(list(messages)))

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        replies = list(super().pull_messages(message_ids))
        return replies[1:] + replies[:1]
