"""Our side: fedmoe's real path, from the settings to the merged state, on its in-process grid.

A round is what `ExpertStrategy.start` does between two rounds' records: the ranking query where the strategy asks one,
orders encoded, a node that trains its cohort, sums decoded and merged. Evaluation, checkpoints and the line in
`rounds.jsonl` are left out, for the peers do none of these either. The common expert's embeddings are computed before
the first round, as in every run of fedmoe.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from flwr.app import ConfigRecord
from numpy.typing import NDArray

from benchmarks.sides import Rounds, Serve
from benchmarks.sides.fedmoe_plugins import write_arrays
from benchmarks.workloads import Work
from fedmoe.data.storage import home
from fedmoe.federation.state import ServerState
from fedmoe.flower.client_app import app
from fedmoe.flower.devices import set_up_torch
from fedmoe.flower.federation import Federation, Recorder
from fedmoe.flower.local_grid import LocalGrid
from fedmoe.flower.methods import build_strategy
from fedmoe.flower.preparation import Preparation, prepare_run
from fedmoe.flower.running import ledger_of
from fedmoe.flower.strategy import ExpertStrategy
from fedmoe.flower.wire import record_of, state_of
from fedmoe.settings import Settings, from_flat
from fedmoe.training.speed import TrainerChoice

__all__ = ["bound", "flat_settings", "run"]

PLUGINS = "benchmarks.sides.fedmoe_plugins"
BACKBONES = {"perceptron": "mlp", "cnn": f"{PLUGINS}:PooledConvolutions", "resnet8": "resnet8"}


class ChoiceRecorder:
    """A recorder that keeps nothing but which trainer was chosen."""

    def __init__(self) -> None:
        self.facts: dict[str, Any] = {}

    def trainer(self, choice: TrainerChoice) -> None:
        """Keeps the choice, and what it was measured by."""
        self.facts["trainer"] = asdict(choice)

    def round(self, line: Mapping[str, Any], state: ServerState, average: ServerState | None) -> None:
        """Does nothing."""


def run(
    work: Work,
    threads: int,
    serve: Serve,
    *,
    trainer: str,
    compiling: str = "auto",
    in_processes: bool = True,
    usual_order: bool = False,
) -> None:
    """Serves fedmoe's rounds of the work.

    Args:
        work: what is done.
        threads: cores to keep busy.
        serve: is called once all is ready.
        trainer: `auto`, `loop` or `stacked`.
        compiling: `auto`, `on` or `off`; `on` is what a run of many rounds comes to.
        in_processes: as many worker processes as `threads`, with one torch thread each; else one process with them all.
        usual_order: whether the convolutional network keeps ReLU before pooling.
    """
    folder = home() / "benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    workers, threads = (threads, 1) if in_processes else (1, threads)
    config = flat_settings(work, threads, trainer) | {"train.workers": workers}
    config |= {"data.root": write_arrays(work, folder), "train.compile": compiling, "deterministic": compiling != "on"}
    if usual_order and work.network == "cnn":
        config["experts.model"] = f"{PLUGINS}:UsualOrder"
    settings = from_flat(config)
    set_up_torch(threads, settings.deterministic)
    preparation = prepare_run(settings, torch.device("cpu"), lambda text: None)
    recorder = ChoiceRecorder()
    strategy = bound(settings, preparation, recorder)
    grid = LocalGrid(app, 1, config)
    arrays = record_of(preparation.initial_state(strategy.num_experts, strategy.has_gate, strategy.init))
    round_num = 0

    def train() -> int:
        nonlocal round_num, arrays
        round_num += 1
        orders = strategy.configure_train(round_num, arrays, ConfigRecord(), grid)
        merged, metrics = strategy.aggregate_train(round_num, grid.send_and_receive(orders))
        assert merged is not None
        assert metrics is not None
        arrays = merged
        return int(metrics["num-examples"])  # type: ignore[arg-type]

    serve(Rounds(train, lambda: whole(state_of(arrays)), recorder.facts))


def flat_settings(work: Work, threads: int, trainer: str) -> dict[str, Any]:
    """Returns the settings of the work, as a simulation's pyproject.toml has them, but for the data's root."""
    strategy = "fedjets" if work.is_mixture else "fedavg"
    return {
        "simulation": work.name,
        "data.name": f"{PLUGINS}:load_arrays",
        "data.public-samples": 2 * work.classes,
        "clients.num": work.clients,
        "clients.per-round": work.clients,
        "clients.anchors-per-round": work.experts if work.is_mixture else 0,
        "clients.partition": f"{PLUGINS}:equal_shares",
        "clients.unseen": 1,
        "clients.min-completed": 1.0,
        "common-expert.epochs": 0,  # what it knows changes no second of a round
        "gate.hidden": work.gate_hidden,
        "experts.num": work.experts,
        "experts.top-k": work.top_k,
        "experts.model": BACKBONES[work.network],
        "train.batch-size": work.batch_size,
        "train.learning-rate": work.learning_rate,
        "train.momentum": work.momentum,
        "train.gate-learning-rate": work.gate_learning_rate,
        "train.gate-momentum": work.momentum,
        "train.threads": threads,
        "train.device": "cpu",
        "train.trainer": trainer,
        "train.precision": work.precision,
        "train.layout": "auto",
        "strategy.name": strategy,
        f"strategy.{strategy}.init": "random",
    }


def bound(settings: Settings, preparation: Preparation, recorder: Recorder) -> ExpertStrategy:
    """Returns the settings' strategy, bound to a federation."""
    strategy = build_strategy(settings.strategy.name, settings)
    assert isinstance(strategy, ExpertStrategy)
    strategy.bind(
        Federation(
            settings=settings,
            population=preparation.population,
            plan=preparation.plan(),
            ledger=ledger_of(strategy, preparation),
            recorder=recorder,
        )
    )
    return strategy


def whole(state: ServerState) -> NDArray[np.float32]:
    """Returns a copy of gate and experts as one flat array."""
    return np.concatenate([*([] if state.gate is None else [state.gate]), *state.experts])
