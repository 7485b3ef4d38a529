"""Orders and reports as Flower messages: a table of arrays and one JSON text each way.

A node gets each array once, however many of its clients need it; a report brings sums, metrics and failures back.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from io import BytesIO
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from numpy.typing import NDArray

from fedmoe.evaluation.serving import Serving
from fedmoe.evaluation.zero_shot import ClientResult
from fedmoe.federation.job import ClientFailure, ClientJob, ClientUpdate, Question, Term, Turn
from fedmoe.federation.state import ServerState

__all__ = [
    "answers_of",
    "decode",
    "encode",
    "failure_from_json",
    "job_from_json",
    "job_to_json",
    "partial_state",
    "record_of",
    "result_from_json",
    "result_to_json",
    "row_of",
    "serving_from_json",
    "state_of",
]

ARRAYS = "arrays"
TEXT = "text"
COUNTS = ("routed_MC", "class_count_C", "correct_MC")  # arrays of a result

Arrays = Mapping[str, NDArray[Any]]


def encode(payload: Mapping[str, Any], arrays: Arrays) -> RecordDict:
    """Returns the content of a message that carries `payload` (anything JSON can hold) and named arrays."""
    return RecordDict(
        {
            ARRAYS: ArrayRecord({name: as_array(array) for name, array in arrays.items()}),
            TEXT: ConfigRecord({"json": json.dumps(payload)}),
        }
    )


def decode(message: Message) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Returns payload and arrays of a message that `encode` filled."""
    payload: dict[str, Any] = json.loads(str(message.content.config_records[TEXT]["json"]))
    return payload, {name: array.numpy() for name, array in message.content.array_records[ARRAYS].items()}


def as_array(array: NDArray[Any]) -> Array:
    """Returns the array as `Array(array)` does, with one copy of its bytes where that makes three."""
    if array.ndim == 0 or array.size == 0 or not array.flags.c_contiguous:
        return Array(np.ascontiguousarray(array))
    header = BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(array))
    data = b"".join((header.getvalue(), array.data.cast("B")))
    return Array(dtype=str(array.dtype), shape=tuple(array.shape), stype="numpy.ndarray", data=data)


def record_of(state: ServerState) -> ArrayRecord:
    """Returns the state as Flower's record of arrays."""
    return ArrayRecord({name: as_array(array) for name, array in state.to_arrays().items()})


def state_of(record: ArrayRecord) -> ServerState:
    """Returns the state that `record_of` wrote."""
    return ServerState.from_arrays({name: array.numpy() for name, array in record.items()})


def partial_state(arrays: Arrays, num_experts: int) -> ServerState:
    """Returns a node's view of the state: experts that were not sent are empty vectors."""
    missing = np.zeros(0, dtype=np.float32)
    experts = tuple(arrays.get(f"expert/{i}", missing) for i in range(num_experts))
    extras = {name.removeprefix("extra/"): array for name, array in arrays.items() if name.startswith("extra/")}
    return ServerState(gate=arrays.get("gate"), experts=experts, extras=extras)


def job_to_json(job: ClientJob) -> dict[str, Any]:
    """Returns the job as a table that JSON can hold.

    >>> job = ClientJob(client_id=1, round_num=2, experts=(0,), objective=(Term("dense"),), gate=False)
    >>> job_from_json(job_to_json(job)) == job
    True
    """
    # by hand: `asdict` copies all it finds, and took 50 us a job
    turns = [vars(turn) | {"objective": terms_to_json(turn.objective)} for turn in job.turns]
    asked = None if job.question is None else vars(job.question) | {"arguments": dict(job.question.arguments)}
    made = {"objective": terms_to_json(job.objective), "turns": turns, "question": asked}
    return {**vars(job), **made, "given": dict(job.given), "instead": dict(job.instead)}


def job_from_json(table: Mapping[str, Any]) -> ClientJob:
    """Returns the job that `job_to_json` wrote."""
    objective = terms_from_json(table["objective"])
    turns = tuple(
        Turn(objective=terms_from_json(turn["objective"]), trains=tuple(turn["trains"]), part=turn["part"])
        for turn in table["turns"]
    )
    lists = {name: tuple(table[name]) for name in ("experts", "trains", "private", "memory", "shared", "pooled")}
    given = {name: tuple(values) for name, values in table["given"].items()}
    instead = {int(expert_id): name for expert_id, name in table["instead"].items()}
    question = None if table["question"] is None else Question(**table["question"])
    made = {"objective": objective, "turns": turns, "question": question, "given": given, "instead": instead}
    return ClientJob(**{**table, **lists, **made})


def terms_to_json(terms: Sequence[Term]) -> list[dict[str, Any]]:
    """Returns the terms of an objective as tables."""
    return [{"name": term.name, "arguments": dict(term.arguments)} for term in terms]


def terms_from_json(tables: Sequence[Mapping[str, Any]]) -> tuple[Term, ...]:
    """Returns the terms that `terms_to_json` wrote."""
    return tuple(Term(table["name"], dict(table["arguments"])) for table in tables)


def failure_from_json(table: Mapping[str, Any]) -> ClientFailure:
    """Returns the failure that `asdict` made a table of."""
    return ClientFailure(**table)


def answers_of(name: str, answers: Mapping[int, Any], failures: Sequence[ClientFailure]) -> dict[str, Any]:
    """Returns a report under `name` of what each client answered, and of those who could not."""
    return {
        name: {str(client): answer for client, answer in answers.items()},
        "failures": [asdict(failure) for failure in failures],
    }


def row_of(update: ClientUpdate) -> dict[str, Any]:
    """Returns what the report says of a client that completed."""
    return {
        "client_id": update.client_id,
        "num_examples": update.num_examples,
        "weight": update.weight,
        "metrics": dict(update.metrics),
    }


def serving_from_json(table: Mapping[str, Any]) -> Serving:
    """Returns the serving that `vars` made a table of."""
    return Serving(**{**table, **{name: tuple(table[name]) for name in ("private", "cold_start")}})


def result_to_json(result: ClientResult) -> dict[str, Any]:
    """Returns the result as a table that JSON can hold."""
    table = vars(result).copy()
    for name in COUNTS:
        table[name] = None if table[name] is None else table[name].tolist()
    return table


def result_from_json(table: Mapping[str, Any]) -> ClientResult:
    """Returns the result that `result_to_json` wrote."""
    counts = {name: None if table[name] is None else np.asarray(table[name], dtype=np.int64) for name in COUNTS}
    return ClientResult(**{**table, **counts, "experts": tuple(table["experts"]), "scores": tuple(table["scores"])})
