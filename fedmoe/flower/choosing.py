"""The choice of the trainer, made once a run, by the first node, for all nodes; and what is added to it later."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from flwr.serverapp import Grid

from fedmoe.errors import RoundError
from fedmoe.federation.job import ClientJob
from fedmoe.federation.state import ServerState
from fedmoe.flower.federation import Federation, Recorder
from fedmoe.flower.orders import measure_order
from fedmoe.flower.roster import Roster, exchange
from fedmoe.flower.wire import decode
from fedmoe.training.choice import forced_choice
from fedmoe.training.speed import TrainerChoice

__all__ = ["choose", "with_looped"]


def choose(
    federation: Federation, jobs: Sequence[ClientJob], state: ServerState, rounds: int, grid: Grid, roster: Roster
) -> TrainerChoice:
    """Returns, and has recorded, what clients are trained by: as the settings say, or as the first node measures.

    Args:
        federation: of the round that the jobs are of.
        jobs: a round's.
        state: what they get.
        rounds: rounds that are still to come.
        grid: Flower's.
        roster: whose first node measures.

    Raises:
        RoundError: the first node failed, or did not answer in time.
    """
    choice = forced_choice(federation.settings.train, images=True)
    trained = [job for job in jobs if not job.question]
    if not trained:  # nobody trains, so there is nothing to measure
        choice = TrainerChoice(kind="loop")
    if choice is None:
        order = {roster.node_ids[0]: measure_order(federation, trained, state, rounds)}
        patience = federation.settings.clients.timeout
        for reply in exchange(grid, "query.measure", str(trained[0].round_num), order, patience).values():
            if reply.has_error():
                raise RoundError(f"no trainer could be chosen: {reply.error.reason}")
            choice = TrainerChoice.from_json(decode(reply)[0])
    if choice is None:
        raise RoundError("no trainer could be chosen: the first node did not answer; hint: clients.timeout")
    federation.recorder.trainer(choice)
    return choice


def with_looped(choice: TrainerChoice, looped: Mapping[str, str], recorder: Recorder) -> TrainerChoice:
    """Returns the choice with the kinds of jobs that turned out to need the loop; new ones are recorded.

    The first reason that was given for a kind stays.
    """
    if not looped.keys() - choice.looped.keys():
        return choice
    choice = replace(choice, looped={**looped, **choice.looped})
    recorder.trainer(choice)
    return choice
