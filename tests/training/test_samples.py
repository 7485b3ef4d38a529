from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from fedmoe.data.embeddings import EmbeddingTable
from fedmoe.data.population import build_population
from fedmoe.training.sample_store import SampleStore, channel_statistics, has_room
from fedmoe.training.samples import Lots
from tests.small import blobs, small_settings


def small_store(width: int = 5) -> SampleStore:
    data = blobs(None)
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(len(data.y_N), width)).astype(np.float32)
    table = EmbeddingTable("key", embeddings, rng.normal(size=(len(data.y_N), 6)).astype(np.float32))
    return SampleStore.of(data, build_population(data, small_settings()), table, torch.device("cpu"))


@pytest.fixture(params=["mapped", "resident"])
def store(request: pytest.FixtureRequest) -> SampleStore:
    return replace(small_store(), resident=request.param == "resident")


def test_a_clients_samples_come_in_the_order_of_the_ids(store: SampleStore) -> None:
    data = blobs(None)
    for ids in (np.array([7, 3, 500, 3]), np.array([719, 0])):
        samples = store.load(ids)
        assert len(samples) == len(ids)
        np.testing.assert_array_equal(samples.images.numpy(), data.x_NCHW[ids])
        np.testing.assert_array_equal(samples.y.numpy(), data.y_N[ids])
        np.testing.assert_array_equal(store.y(ids).numpy(), data.y_N[ids])
        np.testing.assert_array_equal(samples.gate_input.numpy(), store.embeddings[ids])
        np.testing.assert_array_equal(store.common_logits(ids).numpy(), store.logits[ids])


@pytest.mark.parametrize("reads", ["embedding", "group", "lot", None])
def test_a_resident_store_gives_the_same_tensors_as_a_mapped_one(reads: str | None) -> None:
    mapped = small_store()
    resident = replace(mapped, resident=True)
    for seed in range(5):
        ids = np.random.default_rng(seed).integers(0, 720, size=seed * 7)
        lots = Lots(seed, 4)
        one, two = mapped.load(ids, reads, lots), resident.load(ids, reads, lots)
        for name, tensor in vars(one).items():
            assert tensor.dtype == getattr(two, name).dtype, name
            assert torch.equal(tensor, getattr(two, name)), name
        assert torch.equal(mapped.common_logits(ids), resident.common_logits(ids))


class Watched(np.ndarray[Any, Any]):
    """An array that says when a row of it is read."""

    def __getitem__(self, key: Any) -> Any:
        raise AssertionError("read")


def test_what_nobody_asks_for_is_not_read() -> None:
    plain, ids = small_store(), np.arange(9)
    store = replace(plain, embeddings=plain.embeddings.view(Watched), logits=plain.logits.view(Watched))
    assert store.load(ids, reads=None).gate_input.shape == (9, 0)
    assert len(store.load(ids, "group")) == len(store.load(ids, "lot", Lots(0, 3))) == 9
    for read in (store.load, store.common_logits):
        with pytest.raises(AssertionError, match="read"):
            read(ids)
    store = replace(plain, images=plain.images.view(Watched), labels=plain.labels.view(Watched))
    assert store.gate_input(ids, "embedding").shape == (9, 5)


def test_an_array_that_nobody_asks_for_is_not_moved() -> None:
    store, ids = replace(small_store(), resident=True), np.arange(9)
    assert store.placed == {}
    store.load(ids, reads=None)
    assert set(store.placed) == {"images", "labels"}
    moved = store.placed["images"]
    store.load(ids)
    assert set(store.placed) == {"images", "labels", "embeddings"}
    assert store.placed["images"] is moved


def test_arrays_stay_on_a_gpu_that_has_twice_the_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 5000))
    gpu = torch.device("cuda", 0)
    assert [has_room(gpu, size) for size in (0, 500, 501)] == [True, True, False]
    assert not has_room(torch.device("cpu"), 0)


def test_what_the_gate_reads_has_the_width_that_is_told(store: SampleStore) -> None:
    ids = np.arange(20)
    assert store.gate_input(ids, "embedding").shape == (20, store.gate_width("embedding", 3))
    groups = store.gate_input(ids, "group")
    assert groups.shape == (20, store.gate_width("group", 3))
    assert groups.dtype == torch.float32
    np.testing.assert_array_equal(groups.argmax(dim=1).numpy(), store.groups[ids])
    assert torch.equal(groups.sum(dim=1), torch.ones(20))
    assert store.gate_input(ids, "lot", Lots(1, 3)).shape == (20, store.gate_width("lot", 3))
    images = store.gate_input(ids, "image")
    assert images.shape == (20, store.gate_width("image", 3))
    assert torch.equal(images, store.load(ids).inputs(slice(None)).flatten(1)), "as the experts read them"
    known = "'embedding', 'fingerprint', 'group', 'image' or 'lot'"
    with pytest.raises(ValueError, match=f"a gate reads {known}, got 'label'"):
        store.gate_input(ids, "label")
    with pytest.raises(ValueError, match="needs them drawn"):
        store.load(ids, "lot")


@pytest.mark.parametrize("seed", range(3))
def test_lots_are_fair_and_each_client_has_a_favourite(seed: int) -> None:
    lots = Lots(seed, 4).draw(4000).double()
    assert torch.equal(Lots(seed, 4).draw(4000).double(), lots)
    assert not torch.equal(Lots(seed + 100, 4).draw(4000).double(), lots)
    assert 0 <= float(lots.min()) <= float(lots.max()) < 1.25
    own = torch.rand(4, generator=torch.Generator().manual_seed(seed)).double()
    # a mean of 4,000 uniform lots has a standard deviation of 0.0046
    torch.testing.assert_close(lots.mean(dim=0), 0.5 + own / 4, atol=0.02, rtol=0)
    torch.testing.assert_close(lots.std(dim=0), torch.full((4,), 12**-0.5).double(), atol=0.01, rtol=0)


def test_drawing_lots_leaves_the_global_stream_alone() -> None:
    before = torch.random.get_rng_state()
    Lots(3, 2).draw(10)
    assert torch.equal(torch.random.get_rng_state(), before)


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
        for tensor in (samples.gate_input, samples.images, samples.y):
            assert tensor.data_ptr() % 64 == 0


@pytest.mark.parametrize("width", [5, 16])
def test_fingerprints_are_of_the_images_whatever_the_embedding_is_and_the_experts_read(width: int) -> None:
    store, ids = small_store(width), np.array([4, 700, 31])
    found = store.gate_input(ids, "fingerprint")
    assert found.shape == (3, store.gate_width("fingerprint", 3))
    assert store.gate_width("fingerprint", 3) == store.looks.width != width
    heads = replace(store, images=store.embeddings[:, :, None, None], mean=torch.zeros(width), std=torch.ones(width))
    assert torch.equal(heads.gate_input(ids, "fingerprint"), found)
    other = replace(store, embeddings=store.embeddings + 1)
    assert torch.equal(other.gate_input(ids, "fingerprint"), found)


def test_drifted_images_have_other_fingerprints_by_the_same_regression() -> None:
    store = small_store()
    turned = store.pictures.copy()
    moved = np.setdiff1d(np.arange(len(turned)), store.public_ids)
    turned[moved] = 255 - turned[moved]
    drifted = replace(store, pictures=turned)
    np.testing.assert_array_equal(drifted.fingerprints.explained_CD, store.fingerprints.explained_CD)
    ids = moved[:20]
    assert (drifted.gate_input(ids, "fingerprint") - store.gate_input(ids, "fingerprint")).abs().max() > 0.1
    public = store.public_ids[:20]
    assert torch.equal(drifted.gate_input(public, "fingerprint"), store.gate_input(public, "fingerprint"))
