"""One method of a run: its strategy built and bound, its rounds recorded, gone on with where it was cut off."""

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from fedmoe.errors import SettingsError, nearest_hint
from fedmoe.evaluation.gathering import held_sets
from fedmoe.federation.ledger import Ledger
from fedmoe.federation.state import ServerState
from fedmoe.flower.federation import Federation
from fedmoe.flower.plain import run_plain
from fedmoe.flower.preparation import Preparation, can_start_from
from fedmoe.flower.strategy import ExpertStrategy
from fedmoe.flower.wire import record_of
from fedmoe.moe.construction import expert_reads, gate_class
from fedmoe.moe.vectors import vector_size
from fedmoe.recording.atomic import write_atomic
from fedmoe.recording.checkpoints import load_checkpoint, newest_checkpoint, save_checkpoint
from fedmoe.recording.client_states import ClientStates
from fedmoe.recording.loggers import RunLogger
from fedmoe.recording.outcome import Outcome, read_outcome
from fedmoe.recording.plain import json_text
from fedmoe.recording.rounds import append_round, truncate_rounds
from fedmoe.recording.run_folder import MAIN, MethodFolder, RunFolder
from fedmoe.references import known_names, load_plugin
from fedmoe.settings import Settings
from fedmoe.training.speed import TrainerChoice

__all__ = ["Method", "build_strategy", "ledger_of", "methods_of", "rounds_done", "run_method", "unused_tables"]

TRAINER = "trainer.json"


@dataclass(frozen=True)
class Method:
    """A method of a run.

    Attributes:
        name: as it is printed: the strategy's short name, or its class's name.
        strategy: not yet bound.
        is_main: whether it is what the run is about, rather than a baseline.
    """

    name: str
    strategy: Strategy
    is_main: bool


def methods_of(settings: Settings) -> list[Method]:
    """Returns the run's methods: the strategy, then the baselines; their arguments are checked.

    Raises:
        SettingsError: an unknown strategy or argument, settings that a strategy cannot work with, or a baseline twice.
    """
    baselines = [name.strip() for name in settings.evaluate.baselines.split(",") if name.strip()]
    main = settings.strategy.name
    # It is no baseline of itself, so that a sweep over methods can leave the baselines alone.
    references = [main, *(name for name in baselines if name.replace("-", "_") != main.replace("-", "_"))]
    methods = [
        Method(short_name(reference), build_strategy(reference, settings), is_main=index == 0)
        for index, reference in enumerate(references)
    ]
    names = [method.name for method in methods]
    for name in names:
        if names.count(name) > 1:
            raise SettingsError(
                f"each method must be there once, got '{name}' {names.count(name)} times: see "
                "strategy.name and evaluate.baselines"
            )
    for method in methods:
        _check_init(method, settings)
        if isinstance(method.strategy, ExpertStrategy):
            method.strategy.check(settings)
    unused_tables(settings, methods)
    return methods


def unused_tables(settings: Settings, methods: Sequence[Method]) -> list[str]:
    """Returns a note for each table of strategy arguments that no method of this run, nor any built-in one, answers to.

    It may belong to a strategy of one's own that this run leaves out.

    Raises:
        SettingsError: its name looks like a known one's, misspelt.
    """
    known = {method.name for method in methods} | set(known_names("strategies"))
    unused = [table for table in sorted(settings.strategy.arguments) if table not in known]
    for table in unused:
        if difflib.get_close_matches(table, known, n=1, cutoff=0.75):
            raise SettingsError(f"unknown strategy '{table}'; {nearest_hint(table, known)}")
    return [f"the settings table strategy.{table} is used by no method of this run" for table in unused]


def _check_init(method: Method, settings: Settings) -> None:
    if not isinstance(method.strategy, ExpertStrategy):
        return
    common, model = settings.common_expert, settings.experts.model
    other = common.source if common.source.startswith("torchvision:") else common.model or model
    if (method.strategy.init or settings.experts.init) == "common" and not can_start_from(other, model):
        raise SettingsError(
            f"{method.name} starts from the common expert, so both must have one backbone: experts.model is '{model}', "
            f"the common expert is '{other}'; hint: strategy.{method.name}.init='random', or equal models"
        )
    if method.strategy.init not in ("", "random", "common"):
        raise SettingsError(
            f"strategy.{method.name}.init must be 'random', 'common' or '', got '{method.strategy.init}'"
        )


def short_name(reference: str) -> str:
    """Returns how the strategy is called, here and in the settings' tables of arguments.

    That is its short name, or the class's name of a reference in lower case; where a built-in one is called so, the
    reference's package or file is put before it.

    >>> short_name("my_module:MyStrategy"), short_name("flwr.serverapp.strategy:FedAvg"), short_name("fedavg")
    ('mystrategy', 'flwr_fedavg', 'fedavg')
    """
    where, _, attribute = reference.rpartition(":")
    name = attribute.replace("-", "_").lower()
    if where and name in known_names("strategies"):
        origin = Path(where).stem if where.endswith(".py") else where.split(".")[0]
        return f"{origin}_{name}"
    return name


def build_strategy(reference: str, settings: Settings) -> Strategy:
    """Returns the strategy, with the arguments of its table `strategy.NAME` in the settings.

    Raises:
        SettingsError: it is unknown, is no Flower strategy, or does not take these arguments.
    """
    make = load_plugin("strategy", "strategies", reference)
    if not (isinstance(make, type) and issubclass(make, Strategy)):
        raise SettingsError(
            f"strategy '{reference}' must be a subclass of flwr.serverapp.strategy.Strategy, got {make!r}"
        )
    arguments = settings.strategy.arguments.get(short_name(reference), {})
    if is_dataclass(make):
        known = {item.name: item for item in fields(make)}
        for name, value in arguments.items():
            if name not in known:
                raise SettingsError(
                    f"strategy.{short_name(reference)} has no argument '{name}'; {nearest_hint(name, known)}"
                )
            _check_type(f"strategy.{short_name(reference)}.{name}", type(known[name].default), value)
    try:
        strategy: Strategy = make(**arguments)
    except SettingsError as error:  # a strategy that builds on another is refused in its own name
        own = f"strategy.{short_name(reference)}"
        raise error if own in str(error) else SettingsError(f"{own}: {error}") from error
    except TypeError as error:
        raise SettingsError(f"strategy '{reference}' does not take {arguments}: {error}") from error
    return strategy


def run_method(
    method: Method, preparation: Preparation, folder: RunFolder, grid: Grid, loggers: Sequence[RunLogger]
) -> Outcome:
    """Trains one method to its last round and returns what its rounds come to.

    A method whose checkpoint is at the last round is not run again.
    """
    place = place_of(method, folder)
    place.path.mkdir(parents=True, exist_ok=True)
    settings, start = preparation.settings, _resume_point(place)
    recorder = MethodRecorder(method.name, place, loggers, settings.checkpoint_every, settings.num_server_rounds)
    if start.round_num < settings.num_server_rounds:
        if isinstance(method.strategy, ExpertStrategy):
            _start(method.strategy, preparation, recorder, start, grid)
        else:
            forget_rounds(place)  # Flower's own loop always starts at round 1; its rounds come out the same again
            run_plain(method.strategy, preparation, recorder, grid)
    return read_outcome(place.rounds)


def forget_rounds(place: MethodFolder) -> None:
    """Removes a method's rounds and checkpoints."""
    for checkpoint in sorted(place.checkpoints.glob("*")):
        checkpoint.unlink()
    if place.rounds.exists():
        truncate_rounds(place.path, 0)


def place_of(method: Method, folder: RunFolder) -> MethodFolder:
    """Returns where the method keeps its rounds."""
    return folder.method(MAIN if method.is_main else method.name)


def rounds_done(method: Method, folder: RunFolder) -> int:
    """Returns the round of the method's newest checkpoint; 0 where there is none."""
    newest = newest_checkpoint(place_of(method, folder).path)
    return 0 if newest is None else load_checkpoint(newest).round_num


def _start(
    strategy: ExpertStrategy, preparation: Preparation, recorder: "MethodRecorder", start: "ResumePoint", grid: Grid
) -> None:
    """Binds the strategy and runs its rounds."""
    states = recorder.place.states
    ClientStates(states).forget_after(start.round_num)
    settings = preparation.settings
    state = start.state or preparation.initial_state(
        strategy.pool_size(settings), strategy.has_gate, strategy.init, strategy.gate
    )
    strategy.bind(
        Federation(
            settings=settings,
            population=preparation.population,
            plan=preparation.plan(strategy.gate),
            ledger=ledger_of(strategy, preparation),
            recorder=recorder,
            first_round=start.round_num + 1,
            average=start.average,
            held=start.held,
            trainer=start.trainer,
            states=str(states),
        )
    )
    strategy.start(grid, record_of(state), num_rounds=settings.num_server_rounds)


def ledger_of(strategy: Strategy, preparation: Preparation) -> Ledger:
    """Returns the sizes that the strategy's traffic is made of."""
    expert = int(preparation.initial_state(1, False, "random").experts[0].size)
    reads = {expert_reads(preparation.settings.experts.model)}
    size, gate = 1, None
    if isinstance(strategy, ExpertStrategy):
        size = strategy.pool_size(preparation.settings)
        if strategy.has_gate:
            gate = preparation.initial_gate(size, strategy.gate)
            reads.add(gate_class(strategy.gate or preparation.settings.gate.name).reads)
    common = vector_size(preparation.common.expert) if reads & {"embedding", "fingerprint"} else 0
    if "fingerprint" in reads:
        common += preparation.store.fingerprints.explained_CD.size
    return Ledger(
        gate_size=0 if gate is None else int(gate.size),
        expert_size=expert,
        num_experts=size,
        common_size=common,
    )


@dataclass(frozen=True)
class MethodRecorder:
    """Keeps each round of one method: its line, then its checkpoint, where one is due; a run goes on from the newest.

    Attributes:
        name: the method's.
        place: where it keeps them.
        loggers: who is told as well.
        every: rounds between two checkpoints.
        last: the last round, which always has one.
    """

    name: str
    place: MethodFolder
    loggers: Sequence[RunLogger]
    every: int
    last: int

    def trainer(self, choice: TrainerChoice) -> None:
        """Writes `trainer.json`, and tells the loggers."""
        write_atomic(self.place.path / TRAINER, json_text(asdict(choice), indent=1).encode())
        for logger in self.loggers:
            logger.trainer(self.name, asdict(choice))

    def round(self, line: Mapping[str, Any], state: ServerState, average: ServerState | None) -> None:
        """Writes the line and, where it is due, the checkpoint, and tells the loggers."""
        round_num = int(line["round"])
        full = {"round": round_num, "strategy": self.name, **line}
        append_round(self.place.path, full)
        if round_num % self.every == 0 or round_num == self.last:
            arrays = dict(state.to_arrays())
            if average is not None:
                arrays |= {f"average/{name}": array for name, array in average.to_arrays().items()}
            save_checkpoint(self.place.path, round_num, arrays, {"strategy": self.name})
        for logger in self.loggers:
            logger.round(self.name, full)


@dataclass(frozen=True)
class ResumePoint:
    """Where a method goes on from; round 0 and no state for a new one."""

    round_num: int
    state: ServerState | None
    average: ServerState | None
    trainer: TrainerChoice | None = None
    held: Mapping[int, Sequence[int]] = field(default_factory=dict)


def _resume_point(place: MethodFolder) -> ResumePoint:
    newest = newest_checkpoint(place.path)
    if newest is None:
        if place.rounds.exists():
            truncate_rounds(place.path, 0)
        return ResumePoint(0, None, None)
    checkpoint = load_checkpoint(newest)
    truncate_rounds(place.path, checkpoint.round_num)
    own = {name: array for name, array in checkpoint.arrays.items() if not name.startswith("average/")}
    average = {n.removeprefix("average/"): a for n, a in checkpoint.arrays.items() if n.startswith("average/")}
    return ResumePoint(
        checkpoint.round_num,
        ServerState.from_arrays(own),
        ServerState.from_arrays(average) if average else None,
        _chosen_before(place),
        held_sets(read_outcome(place.rounds).evaluation),
    )


def _chosen_before(place: MethodFolder) -> TrainerChoice | None:
    """Returns the trainer that the run began with: the other one's last bits differ."""
    file = place.path / TRAINER
    return TrainerChoice.from_json(json.loads(file.read_text())) if file.is_file() else None


def _check_type(key: str, wanted: type, value: Any) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    fits = number if wanted is float else isinstance(value, wanted) and (wanted is bool or not isinstance(value, bool))
    if wanted in (bool, int, float, str) and not fits:
        raise SettingsError(f"{key} must be of type {wanted.__name__}, got {value!r} ({type(value).__name__})")
