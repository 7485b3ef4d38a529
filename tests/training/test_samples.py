import numpy as np
import pytest
import torch

from fedmoe.data.embeddings import EmbeddingTable
from fedmoe.data.population import build_population
from fedmoe.training.samples import SampleStore, channel_statistics
from tests.small import blobs, small_settings


def small_store(width: int = 5) -> SampleStore:
    data = blobs(None)
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(len(data.y_N), width)).astype(np.float32)
    table = EmbeddingTable("key", embeddings, rng.normal(size=(len(data.y_N), 6)).astype(np.float32))
    return SampleStore.of(data, build_population(data, small_settings()), table, torch.device("cpu"))


def test_a_clients_samples_come_in_the_order_of_the_ids() -> None:
    store, data = small_store(), blobs(None)
    ids = np.array([7, 3, 500, 3])
    samples = store.load(ids)
    assert len(samples) == 4
    np.testing.assert_array_equal(samples.images.numpy(), data.x_NCHW[ids])
    np.testing.assert_array_equal(samples.y.numpy(), data.y_N[ids])
    np.testing.assert_array_equal(samples.gate_input.numpy(), store.embeddings[ids])
    np.testing.assert_array_equal(samples.common_logits.numpy(), store.logits[ids])


def test_what_the_gate_reads_has_the_width_that_is_told() -> None:
    store = small_store()
    ids = np.arange(20)
    assert store.gate_input(ids, "embedding").shape == (20, store.gate_width("embedding"))
    groups = store.gate_input(ids, "group")
    assert groups.shape == (20, store.gate_width("group"))
    np.testing.assert_array_equal(groups.argmax(dim=1).numpy(), store.groups[ids])
    assert torch.equal(groups.sum(dim=1), torch.ones(20))
    with pytest.raises(ValueError, match="a gate reads 'embedding' or 'group', got 'label'"):
        store.gate_input(ids, "label")


def test_public_inputs_are_normalised_channel_by_channel() -> None:
    store, data = small_store(), blobs(None)
    public = build_population(data, small_settings()).public_ids
    inputs = store.load(public).inputs(slice(None)).double()
    assert abs(float(inputs.mean())) < 1e-5
    assert abs(float(inputs.std(correction=0)) - 1) < 1e-5


def test_a_constant_channel_is_not_divided_by_zero() -> None:
    images = np.full((4, 2, 3, 3), 9, dtype=np.uint8)
    mean, std = channel_statistics(images, np.arange(4))
    assert mean.tolist() == [9, 9]
    assert std.tolist() == [1, 1]


def test_loaded_tensors_are_aligned_alike_every_time() -> None:
    # NumPy's memory is not: a product's last bit depends on it, and with it a ranking's.
    store = small_store()
    for size in range(1, 60):
        samples = store.load(np.arange(size))
        for tensor in (samples.gate_input, samples.common_logits, samples.images, samples.y):
            assert tensor.data_ptr() % 64 == 0
