"""How often the experts that a client received are right on its own samples, before it trains them."""

from collections.abc import Sequence

import torch

from fedmoe.evaluation.attempts import attempt
from fedmoe.evaluation.outputs import expert_logits, gate_logits
from fedmoe.evaluation.predictions import Answers
from fedmoe.federation.job import ClientFailure, ClientJob
from fedmoe.federation.state import ServerState
from fedmoe.moe.expert import Expert
from fedmoe.moe.mixture import mix
from fedmoe.moe.vectors import load_vector
from fedmoe.seeding import derive_seed
from fedmoe.training.samples import Lots
from fedmoe.training.trainer import Workplace

__all__ = ["Counts", "received_by_clients", "received_counts"]

Counts = dict[str, tuple[int, int, int]]
"""Name of the vector received (`expert/3`, `shadow/expert/3`) -> samples, right by it, right by the mixture."""


def received_by_clients(
    place: Workplace, jobs: Sequence[ClientJob], state: ServerState, expert: Expert
) -> tuple[dict[str, Counts], list[ClientFailure]]:
    """Returns what each client with jobs that report tells (its id as text), and a failure for each that cannot."""
    reporting: dict[int, list[ClientJob]] = {}
    for job in jobs:
        if job.reports:
            reporting.setdefault(job.client_id, []).append(job)

    def counts(clients: Sequence[int]) -> list[Counts]:
        own = [received_counts(place, job, state, expert) for job in reporting[clients[0]]]
        return [{name: told for counted in own for name, told in counted.items()}]

    round_num = jobs[0].round_num if jobs else 0
    done, failures = attempt("train", round_num, [[client] for client in reporting], counts)
    return {str(client): told for client, told in done.items()}, failures


@torch.no_grad()
def received_counts(place: Workplace, job: ClientJob, state: ServerState, expert: Expert) -> Counts:
    """Returns, for each expert that the job holds, how many of the client's samples fall to it, and how many are right.

    A sample falls to the held expert that the received gate weighs most; without a gate to each that is held. The
    mixture is of the held experts by the gate's weights; without a gate there is none, and the expert counts in its
    place. Where losses are adjusted by the client's label prior, so are the outputs here.

    Args:
        place: where the client works.
        job: its job; vectors that stand in for experts do so here.
        state: what the server sent.
        expert: any expert, whose weights are overwritten.
    """
    ids, num_experts = place.samples_of(job), len(state.experts)
    gate = place.gate_for(num_experts) if job.gate else None
    begun = place.start_of(job, state.with_instead(job.instead), expert, gate)
    vectors = dict(zip(job.experts, begun.experts, strict=True))
    seed = derive_seed(place.seed, "gate", "received", job.round_num, job.client_id)
    lots = None if gate is None else Lots(seed, num_experts, gate.draws)
    samples = place.store.load(ids, None if gate is None else gate.reads, lots)

    def load(expert_id: int) -> Expert:
        load_vector(expert, vectors[expert_id])
        return expert

    (outputs,) = expert_logits(load, [job.experts], [samples])
    prior_C, y_B = place.log_prior_of(ids), samples.y.cpu()
    if prior_C is not None:
        outputs = {i: logits_BC + prior_C.cpu() for i, logits_BC in outputs.items()}
    right = {i: logits_BC.argmax(dim=1) == y_B for i, logits_BC in outputs.items()}
    if gate is None or begun.gate is None:
        counts = {i: (len(y_B), int(own.sum()), int(own.sum())) for i, own in right.items()}
    else:
        load_vector(gate, begun.gate)
        (logits_BM,) = gate_logits(gate, [samples.gate_input])
        common = place.store.common_logits(ids).cpu() if gate.falls_back else None
        held = Answers(
            job.experts, (), logits_BM, outputs, y_B, common, weigh=gate.weigh, falls_back=gate.falls_back
        ).of_held()
        by_mixture_B = mix(held.logits_KBC, held.weights_BK).argmax(dim=1) == y_B
        counts = {}
        for column, i in enumerate(job.experts):
            its_B = held.best_B == column
            counts[i] = (int(its_B.sum()), int(right[i][its_B].sum()), int(by_mixture_B[its_B].sum()))
    return {job.source_of(i): counts[i] for i in job.experts if not job.instead or i in job.instead}
