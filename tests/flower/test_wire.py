"""Arrays on the wire: Flower's own format, byte for byte."""

import numpy as np
import pytest
from flwr.app import Array

from fedmoe.flower.wire import as_array

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
