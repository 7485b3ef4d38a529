"""One method of a run: its strategy bound, its rounds run, gone on with where it was cut off."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from fedmoe.federation.ledger import Ledger
from fedmoe.flower.federation import Federation
from fedmoe.flower.methods import Method
from fedmoe.flower.newborn import newborn_expert
from fedmoe.flower.plain import run_plain
from fedmoe.flower.preparation import Preparation
from fedmoe.flower.recorder import MethodRecorder, ResumePoint, forget_rounds, resume_point
from fedmoe.flower.strategy import ExpertStrategy
from fedmoe.flower.wire import record_of
from fedmoe.moe.construction import expert_reads, gate_class, stands_on_common
from fedmoe.moe.vectors import vector_size
from fedmoe.recording.checkpoints import load_checkpoint, newest_checkpoint
from fedmoe.recording.client_states import ClientStates
from fedmoe.recording.loggers import RunLogger
from fedmoe.recording.outcome import Outcome, read_outcome
from fedmoe.recording.run_folder import MAIN, MethodFolder, RunFolder

__all__ = ["ledger_of", "place_of", "rounds_done", "run_method"]


def run_method(
    method: Method, preparation: Preparation, folder: RunFolder, grid: Grid, loggers: Sequence[RunLogger]
) -> Outcome:
    """Trains one method to its last round and returns what its rounds come to.

    A method whose checkpoint is at the last round is not run again.
    """
    place = place_of(method, folder)
    place.path.mkdir(parents=True, exist_ok=True)
    settings, start = preparation.settings, resume_point(place)
    recorder = MethodRecorder(method.name, place, loggers, settings.checkpoint_every, settings.num_server_rounds)
    if start.round_num < settings.num_server_rounds:
        if isinstance(method.strategy, ExpertStrategy):
            _start(method.strategy, preparation, recorder, start, grid)
        else:
            forget_rounds(place)  # Flower's own loop always starts at round 1; its rounds come out the same again
            federation = Federation(
                settings=settings,
                population=preparation.population,
                plan=preparation.plan(),
                ledger=ledger_of(method.strategy, preparation),
                recorder=recorder,
                trainer=start.trainer,
            )
            run_plain(method.strategy, preparation, federation, grid)
    return read_outcome(place.rounds)


def place_of(method: Method, folder: RunFolder) -> MethodFolder:
    """Returns where the method keeps its rounds."""
    return folder.method(MAIN if method.is_main else method.name)


def rounds_done(method: Method, folder: RunFolder) -> int:
    """Returns the round of the method's newest checkpoint; 0 where there is none."""
    newest = newest_checkpoint(place_of(method, folder).path)
    return 0 if newest is None else load_checkpoint(newest).round_num


def _start(
    strategy: ExpertStrategy, preparation: Preparation, recorder: MethodRecorder, start: ResumePoint, grid: Grid
) -> None:
    """Binds the strategy and runs its rounds."""
    states = recorder.place.states
    ClientStates(states).forget_after(start.round_num)
    settings = preparation.settings
    state = start.state or preparation.initial_state(
        strategy.pool_size(settings), strategy.has_gate, strategy.init, strategy.gate
    )
    federation = Federation(
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
        newborn=partial(newborn_expert, preparation),
        layout=preparation.layout(strategy.pool_size(settings), strategy.has_gate, strategy.gate),
    )
    if (later := preparation.drifted) is not None:
        own = replace(federation, population=later.population, plan=later.plan(strategy.gate))
        federation = replace(federation, drifted=own)
    strategy.bind(federation)
    strategy.start(grid, record_of(state), num_rounds=settings.num_server_rounds)


def ledger_of(strategy: Strategy, preparation: Preparation) -> Ledger:
    """Returns the sizes that the strategy's traffic is made of."""
    expert = int(preparation.initial_state(1, False, "random").experts[0].size)
    reads = {expert_reads(preparation.settings.experts.model)}
    size, gate, answers = 1, None, False
    if isinstance(strategy, ExpertStrategy):
        size = strategy.pool_size(preparation.settings)
        reads.add(strategy.ranks_by)
        if strategy.has_gate:
            gate = preparation.initial_gate(size, strategy.gate)
            kind = gate_class(strategy.gate or preparation.settings.gate.name)
            reads.add(kind.reads)
            answers = kind.falls_back
    settings = preparation.settings
    below = answers or stands_on_common(settings.experts.model)
    needed = below or settings.evaluate.common_vote or reads & {"embedding", "fingerprint", "mean"}
    common = vector_size(preparation.common.expert) if needed else 0
    if "fingerprint" in reads:
        common += preparation.store.fingerprints.explained_CD.size
    return Ledger(
        gate_size=0 if gate is None else int(gate.size),
        expert_size=expert,
        num_experts=size,
        common_size=common,
    )
