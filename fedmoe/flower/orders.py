"""Orders to the nodes, and what their replies add up to; clients are dealt over nodes, longest work first."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from flwr.app import Message, RecordDict
from numpy.typing import NDArray

from fedmoe.evaluation.gathering import evaluation_record, seen_record
from fedmoe.evaluation.priors import federated_prior
from fedmoe.evaluation.served import seen_clients
from fedmoe.evaluation.serving import Serving
from fedmoe.evaluation.zero_shot import ClientResult
from fedmoe.federation.heads import HEADS, KEYS
from fedmoe.federation.job import ClientFailure, ClientJob, ClientUpdate
from fedmoe.federation.merging import Sums, sums_of_updates
from fedmoe.federation.placement import place
from fedmoe.federation.state import ServerState
from fedmoe.flower.federation import Federation
from fedmoe.flower.roster import Roster
from fedmoe.flower.wire import decode, encode, failure_from_json, job_to_json, result_from_json
from fedmoe.training.speed import TrainerChoice

__all__ = [
    "Replies",
    "evaluate_orders",
    "gather_evaluation",
    "gather_rankings",
    "gather_training",
    "mean_seconds",
    "measure_order",
    "rank_orders",
    "train_orders",
]

Orders = dict[int, tuple[tuple[int, ...], Callable[[], RecordDict]]]
"""Node id -> (its clients, what makes the message's content)."""

Cohorts = Mapping[int, Sequence[int]]


@dataclass(frozen=True, kw_only=True)
class Replies:
    """What a round's training brought back.

    Attributes:
        rows: a row a client that completed: `client_id`, `num_examples`, `weight`, `metrics`, and `nonzeros` where it
            sends without zeros; by client id.
        sums: the joined sums of all nodes.
        updates: every client's update, by client id, where the strategy merges updates; else empty.
        failures: those who did not complete.
        rankings: client -> its score of every expert, of those who ranked meanwhile (`Contract.ranked_meanwhile`).
        received: client -> name of a vector that it received (`expert/3`) -> samples that fell to it, how many of them
            it had right before it was trained, and how many the client's mixture; where jobs report (`ClientJob`).
    """

    rows: list[dict[str, Any]]
    sums: Sums
    updates: tuple[ClientUpdate, ...]
    failures: list[ClientFailure]
    rankings: Mapping[int, tuple[float, ...]] = field(default_factory=dict)
    received: Mapping[int, Mapping[str, tuple[int, int, int]]] = field(default_factory=dict)


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


def gather_rankings(
    round_num: int, replies: Iterable[Message], cohorts: Cohorts
) -> tuple[dict[int, tuple[float, ...]], list[ClientFailure]]:
    """Returns each client's ranking, and those who gave none."""
    rankings: dict[int, tuple[float, ...]] = {}
    answered, failures = _read(round_num, "rank", replies, cohorts)
    for payload, _ in answered:
        rankings |= {int(client): tuple(scores) for client, scores in payload["rankings"].items()}
        failures += [failure_from_json(table) for table in payload["failures"]]
    return rankings, failures


def gather_training(round_num: int, replies: Iterable[Message], cohorts: Cohorts, merges: str, exact: bool) -> Replies:
    """Returns what training brought back, whatever the order in which the nodes answered."""
    answered, failures = _read(round_num, "train", replies, cohorts)
    sums, rows = Sums(exact), []
    updates: list[ClientUpdate] = []
    rankings: dict[int, tuple[float, ...]] = {}
    received: dict[int, dict[str, tuple[int, int, int]]] = {}
    for payload, arrays in answered:
        rankings |= {int(client): tuple(scores) for client, scores in payload.get("rankings", {}).items()}
        for client, told in payload.get("received", {}).items():
            received[int(client)] = {name: tuple(counts) for name, counts in told.items()}
        failures += [failure_from_json(table) for table in payload["failures"]]
        rows += payload["rows"]
        if merges == "updates":
            updates += _updates(payload["rows"], arrays)
        else:
            sums.join(Sums(exact, arrays, payload["weights"]))
    updates.sort(key=lambda update: update.client_id)
    rows.sort(key=lambda row: int(row["client_id"]))
    failures.sort(key=lambda failure: failure.client_id)
    if merges == "updates":
        sums = sums_of_updates(updates, exact)
    return Replies(
        rows=rows,
        sums=sums,
        updates=tuple(updates),
        failures=failures,
        rankings=dict(sorted(rankings.items())),
        received=dict(sorted(received.items())),
    )


def gather_evaluation(
    round_num: int,
    replies: Iterable[Message],
    cohorts: Cohorts,
    num_training: int,
    before: Mapping[int, Sequence[int]],
) -> tuple[dict[str, Any] | None, list[ClientFailure], float | None]:
    """Returns the round's evaluation record, the failures, and the mean seconds that serving an unseen client took.

    There is no record, and there are no seconds, when nobody could be served. Clients below `num_training` have been
    trained: they are told of in its part `seen`. `before` says what unseen clients held in the last evaluation.
    """
    answered, failures = _read(round_num, "evaluate", replies, cohorts)
    results: dict[int, ClientResult] = {}
    for payload, _ in answered:
        failures += [failure_from_json(table) for table in payload["failures"]]
        results |= {int(client): result_from_json(table) for client, table in payload["results"].items()}
    unseen = {client: result for client, result in results.items() if client >= num_training}
    seen = {client: result for client, result in results.items() if client < num_training}
    if not unseen:
        return None, failures, None
    record = evaluation_record(unseen, before) | ({"seen": seen_record(seen)} if seen else {})
    return record, failures, mean_seconds(unseen.values())


def mean_seconds(results: Iterable[ClientResult]) -> float:
    """Returns the seconds that it took to rank and predict for one of the clients, on average."""
    return round(float(np.mean([result.seconds for result in results])), 6)


def _deal(roster: Roster, sizes: Mapping[int, int], order: Callable[[Sequence[int]], RecordDict]) -> Orders:
    cohorts = place(sizes, len(roster.working))
    pairs = zip(roster.working, cohorts, strict=True)
    return {node_id: (cohort, lambda cohort=cohort: order(cohort)) for node_id, cohort in pairs if cohort}  # type: ignore[misc]


def _read(
    round_num: int, stage: str, replies: Iterable[Message], cohorts: Cohorts
) -> tuple[Iterator[tuple[dict[str, Any], dict[str, NDArray[Any]]]], list[ClientFailure]]:
    """Returns the nodes' answers by the lowest client served, and a failure for every client of a silent node.

    An answer is decoded when its turn comes, so that one node's arrays are in memory at a time.
    """
    answered: dict[int, Message] = {}
    reasons: dict[int, str] = dict.fromkeys(cohorts, "the node did not answer in time")
    for reply in replies:
        node_id = reply.metadata.src_node_id
        if reply.has_error():
            reasons[node_id] = f"the node failed: {reply.error.reason}"
        else:
            answered[node_id] = reply
    failures = [
        ClientFailure(stage=stage, client_id=client, round_num=round_num, error=reasons[node_id])
        for node_id, cohort in cohorts.items()
        if node_id not in answered
        for client in cohort
    ]
    in_order = sorted(answered, key=lambda node_id: min(cohorts[node_id]))
    return (decode(answered.pop(node_id)) for node_id in in_order), failures


def _updates(rows: Iterable[Mapping[str, Any]], arrays: Mapping[str, NDArray[Any]]) -> Iterator[ClientUpdate]:
    """Yields each client's update, from its row and from arrays named `17/gate`, `17/expert/3`."""
    by_client: dict[int, dict[str, NDArray[Any]]] = {}
    for name, array in arrays.items():
        client, _, part = name.partition("/")
        by_client.setdefault(int(client), {})[part] = array
    for row in rows:
        own = by_client.get(int(row["client_id"]), {})
        experts = {int(n.removeprefix("expert/")): a for n, a in own.items() if n.startswith("expert/")}
        changes = {name: array for name, array in own.items() if name.startswith("extra/")}
        known = {name: value for name, value in row.items() if name != "nonzeros"}
        yield ClientUpdate(gate=own.get("gate"), experts=experts, changes=changes, **known)
