"""Orders to the nodes; clients are dealt over nodes, longest work first."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from flwr.app import RecordDict
from numpy.typing import NDArray

from fedmoe.evaluation.priors import federated_prior
from fedmoe.evaluation.served import seen_clients
from fedmoe.evaluation.serving import Serving
from fedmoe.federation.heads import HEADS, KEYS
from fedmoe.federation.job import ClientJob
from fedmoe.federation.placement import place
from fedmoe.federation.state import ServerState
from fedmoe.flower.federation import Federation
from fedmoe.flower.roster import Roster
from fedmoe.flower.wire import encode, job_to_json
from fedmoe.training.speed import TrainerChoice

__all__ = ["evaluate_orders", "measure_order", "rank_orders", "train_orders"]

Orders = dict[int, tuple[tuple[int, ...], Callable[[], RecordDict]]]
"""Node id -> (its clients, what makes the message's content)."""


def rank_orders(
    federation: Federation,
    roster: Roster,
    round_num: int,
    clients: Sequence[int],
    state: ServerState,
    by: str,
    aggregation: str,
) -> Orders:
    """Returns the ranking query for each node: its clients, and the gate, the pool or nothing, as `by` needs."""
    wanted = _ranked_by(by, state)
    sizes = {client: len(federation.population.shards[client]) for client in clients}

    def order(cohort: Sequence[int]) -> RecordDict:
        payload = {
            "plan": dict(federation.plan),
            "round": round_num,
            "clients": list(cohort),
            "by": by,
            "aggregation": aggregation,
            "num_experts": len(state.experts),
        }
        return encode(payload, wanted)

    return _deal(roster, sizes, order)


def _ranked_by(by: str, state: ServerState) -> dict[str, NDArray[Any]]:
    """Returns what clients need of the state to rank."""
    needed = {"gate": "gate", "loss": "expert/", "likelihood": "expert/"}.get(by)
    return {n: a for n, a in state.to_arrays().items() if needed and n.startswith(needed)}


def train_orders(
    federation: Federation,
    roster: Roster,
    jobs: Sequence[ClientJob],
    state: ServerState,
    merges: str,
    trainer: TrainerChoice,
    meanwhile: Sequence[int] = (),
    by: str = "none",
    aggregation: str = "",
) -> Orders:
    """Returns the training order for each node: its clients' jobs, the gate, and the union of their experts.

    Clients that rank `meanwhile` do so `by` what the state has, and need not train.
    """
    by_client: dict[int, list[ClientJob]] = {}
    for job in jobs:
        by_client.setdefault(job.client_id, []).append(job)
    shards = federation.population.shards
    sizes = {client: sum(job.size(shards) for job in own) for client, own in by_client.items()}
    sizes |= {client: len(shards[client]) + sizes.get(client, 0) for client in meanwhile}
    wanted = _ranked_by(by, state) if meanwhile else {}

    def order(cohort: Sequence[int]) -> RecordDict:
        payload: dict[str, Any] = {"merges": merges, "trainer": asdict(trainer)}
        ranks = [client for client in meanwhile if client in cohort]
        if ranks:
            payload |= {"clients": ranks, "by": by, "aggregation": aggregation, "round": jobs[0].round_num}
        own = [job for client in cohort for job in by_client.get(client, ())]
        return _work(federation, own, state, payload, wanted if ranks else {})

    return _deal(roster, sizes, order)


def measure_order(federation: Federation, jobs: Sequence[ClientJob], state: ServerState, rounds: int) -> RecordDict:
    """Returns the order to find out which trainer is the fastest for these jobs, with so many rounds to come."""
    return _work(federation, jobs, state, {"rounds": rounds})


def _work(
    federation: Federation,
    jobs: Sequence[ClientJob],
    state: ServerState,
    payload: Mapping[str, Any],
    more: Mapping[str, NDArray[Any]] | None = None,
) -> RecordDict:
    """Returns the jobs, what else an order says of them, and what they need of the state, with `more` arrays."""
    held = {expert_id for job in jobs for expert_id in job.experts}
    arrays: dict[str, NDArray[Any]] = {f"expert/{i}": state.experts[i] for i in sorted(held)}
    if state.gate is not None and any(job.gate for job in jobs):
        arrays["gate"] = state.gate
    shared = {name for job in jobs for name in job.shared}
    wanted = {f"{name}/{part}" for name in shared for part in arrays}
    if any(job.head >= 0 for job in jobs):
        wanted.add(HEADS)
    wanted |= {name for job in jobs for name in job.instead.values()}
    arrays |= {f"extra/{name}": array for name, array in state.extras.items() if name in wanted}
    words: dict[str, Any] = {
        "plan": dict(federation.plan),
        "jobs": [job_to_json(job) for job in jobs],
        "states": federation.states,
        "num_experts": len(state.experts),
    }
    return encode({**words, **payload}, {**arrays, **(more or {})})


def evaluate_orders(
    federation: Federation,
    roster: Roster,
    round_num: int,
    state: ServerState,
    serving: Serving,
    last: bool,
    head_of: Callable[[int], int] = lambda client: -1,
) -> Orders:
    """Returns the evaluation order for each node: its unseen clients, those seen that are tested, gate and pool.

    Where the state has heads they go along, and which one is whose, as far as `head_of` knows it.
    """
    population, settings = federation.population, federation.settings
    prior = federated_prior(population, settings.train.logit_adjustment)
    seen = seen_clients(population, settings.evaluate.seen, settings.seed)
    heads = {f"extra/{name}" for name in (HEADS, KEYS)}
    arrays = {n: array for n, array in state.to_arrays().items() if not n.startswith("extra/") or n in heads}
    asked = replace(
        serving,
        hindsight=(serving.hindsight or last) and len(state.experts) > 1,
        cold_start=settings.evaluate.cold_start_sizes if last else (),
        common_vote=settings.evaluate.common_vote,
        doubt=settings.evaluate.doubt,
    )

    def order(cohort: Sequence[int]) -> RecordDict:
        payload = {
            "plan": dict(federation.plan),
            "round": round_num,
            "clients": list(cohort),
            "heads": {str(client): head for client in cohort if (head := head_of(client)) >= 0},
            "serving": vars(asked),
            "train_prior": prior.tolist(),
            "num_experts": len(state.experts),
            "states": federation.states,
        }
        return encode(payload, arrays)

    return _deal(roster, {client: len(population.shards[client]) for client in (*seen, *population.unseen)}, order)


def _deal(roster: Roster, sizes: Mapping[int, int], order: Callable[[Sequence[int]], RecordDict]) -> Orders:
    cohorts = place(sizes, len(roster.working))
    pairs = zip(roster.working, cohorts, strict=True)
    return {node_id: (cohort, lambda cohort=cohort: order(cohort)) for node_id, cohort in pairs if cohort}  # type: ignore[misc]
