"""What the nodes' replies to a round's orders add up to."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from flwr.app import Message
from numpy.typing import NDArray

from fedmoe.evaluation.gathering import evaluation_record, seen_record
from fedmoe.evaluation.zero_shot import ClientResult
from fedmoe.federation.job import ClientFailure, ClientUpdate
from fedmoe.federation.merging import Sums, sums_of_updates
from fedmoe.flower.wire import decode, failure_from_json, result_from_json

__all__ = ["Replies", "gather_evaluation", "gather_rankings", "gather_training", "mean_seconds"]

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
        looped: kind of job that could not be stacked and was trained in the loop -> why (`TrainerChoice`).
    """

    rows: list[dict[str, Any]]
    sums: Sums
    updates: tuple[ClientUpdate, ...]
    failures: list[ClientFailure]
    rankings: Mapping[int, tuple[float, ...]] = field(default_factory=dict)
    received: Mapping[int, Mapping[str, tuple[int, int, int]]] = field(default_factory=dict)
    looped: Mapping[str, str] = field(default_factory=dict)


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
    looped: dict[str, str] = {}
    for payload, arrays in answered:
        looped |= payload.get("looped", {})
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
        looped=dict(sorted(looped.items())),
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
