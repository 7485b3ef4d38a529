"""Fine-tuning: what a client makes of the one model that it is given, on its own labelled samples."""

from dataclasses import replace

from fedmoe.federation.job import ClientFailure, ClientJob, Term
from fedmoe.federation.state import ServerState
from fedmoe.training.trainer import LocalTrainer

__all__ = ["fine_tuned"]


def fine_tuned(trainer: LocalTrainer, client_id: int, state: ServerState, epochs: int, round_num: int) -> ServerState:
    """Returns the state with the client's own model in it: the given one after some epochs of cross-entropy.

    Args:
        trainer: does the work.
        client_id: whose samples, and whose stream.
        state: of a pool of one.
        epochs: passes over the samples.
        round_num: of the stream: the client trains as it would in this round.

    Raises:
        ValueError: there are several experts; which one is the client's own model?
        RuntimeError: the client's work raised, or diverged.
    """
    if len(state.experts) != 1 or state.gate is not None:
        raise ValueError(f"fine-tuning needs one model without a gate, got a pool of {len(state.experts)}")
    job = ClientJob(
        client_id=client_id,
        round_num=round_num,
        experts=(0,),
        objective=(Term("dense"),),
        gate=False,
        epochs=epochs,
    )
    (outcome,) = trainer.train([job], state)
    if isinstance(outcome, ClientFailure):
        raise RuntimeError(f"fine-tuning failed: {outcome.error}")
    return replace(state, experts=(outcome.experts[0],))
