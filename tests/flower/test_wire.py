"""What stands on the wire: arrays in Flower's own format, byte for byte, and jobs as text."""

import json

import numpy as np
import pytest
from flwr.app import Array

from fedmoe.federation.job import ClientJob, Term, Turn
from fedmoe.flower.wire import as_array, job_from_json, job_to_json

ARRAYS = {
    "whole numbers": np.arange(12).reshape(3, 4),
    "one value": np.float32(3)[None],
    "no axis": np.array(2.5),
    "empty": np.zeros((0, 3), dtype=np.float32),
    "transposed": np.arange(12.0).reshape(3, 4).T,
    "every second": np.arange(12.0)[::2],
    "Fortran's order": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "big-endian": np.arange(5, dtype=">i4"),
    "long": np.random.default_rng(0).normal(size=100_000).astype(np.float32),
}


@pytest.mark.parametrize("kind", ARRAYS)
def test_an_array_is_written_as_flower_writes_it(kind: str) -> None:
    array = ARRAYS[kind]
    ours, flowers = as_array(array), Array(np.ascontiguousarray(array))
    assert vars(ours) == vars(flowers)
    np.testing.assert_array_equal(ours.numpy(), np.ascontiguousarray(array))


def test_a_job_with_turns_comes_out_as_it_went_in() -> None:
    turns = (
        Turn(objective=(Term("mixture", {"output": "logit"}), Term("prox", {"mu": 0.5})), trains=("body", "-*.bias")),
        Turn(objective=(Term("mixture"),), trains=("gate",), part="validation"),
    )
    job = ClientJob(client_id=1, round_num=2, experts=(0, 3), objective=(), gate=True, turns=turns)
    assert job_from_json(json.loads(json.dumps(job_to_json(job)))) == job
