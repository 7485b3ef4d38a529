"""Laws of checkpoints: same state, same bytes; what is read is what was written, or it is refused."""

import errno
import os

import numpy as np
import pytest

from fedmoe.errors import RunFolderError
from fedmoe.recording.checkpoints import load_checkpoint, newest_checkpoint, open_checkpoint, save_checkpoint

METADATA = {f"key{i}": f"value {i}" for i in range(12)}


def state(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "gate": rng.normal(size=17).astype(np.float32),
        "expert.0": rng.normal(size=(3, 4)),
        "steps": np.array(12, dtype=np.int64),
        "nothing": np.zeros((0, 3), dtype=np.float32),
        "strided": np.arange(20, dtype=np.int32)[::2],
        "transposed": rng.normal(size=(3, 4)).T,
        "big-endian": np.arange(3, dtype=">f4"),
    }


def same(left, right):
    return left.keys() == right.keys() and all(
        left[k].shape == right[k].shape and np.array_equal(left[k], right[k]) for k in left
    )


def test_gives_back_what_was_saved(tmp_path):
    path = save_checkpoint(tmp_path, 12, state(0), METADATA)
    assert path == tmp_path / "checkpoints" / "round-000012.safetensors"
    checkpoint = load_checkpoint(path)
    assert (checkpoint.round_num, checkpoint.metadata) == (12, METADATA)
    assert same(checkpoint.arrays, state(0))


def test_same_state_same_bytes_in_whatever_order(tmp_path):
    first = save_checkpoint(tmp_path / "a", 3, state(0), METADATA).read_bytes()
    for attempt in range(5):
        arrays = dict(reversed(state(0).items()))
        texts = dict(reversed(METADATA.items()))
        assert save_checkpoint(tmp_path / f"b{attempt}", 3, arrays, texts).read_bytes() == first
    assert save_checkpoint(tmp_path / "c", 3, state(1), METADATA).read_bytes() != first


def test_keeps_the_newest_two(tmp_path):
    for round_num in (1, 2, 9, 999_999, 1_000_000):
        path = save_checkpoint(tmp_path, round_num, state(round_num), {})
        assert newest_checkpoint(tmp_path) == path
    names = sorted(item.name for item in (tmp_path / "checkpoints").iterdir())
    assert names == ["round-1000000.safetensors", "round-999999.safetensors"]


def test_a_method_without_checkpoints_has_no_newest(tmp_path):
    assert newest_checkpoint(tmp_path) is None


def test_a_checkpoint_cut_anywhere_is_refused(tmp_path):
    path = save_checkpoint(tmp_path, 5, state(0), METADATA)
    whole = path.read_bytes()
    for cut in range(0, len(whole), 13):
        path.write_bytes(whole[:cut])
        with pytest.raises(RunFolderError, match="round-000005"):
            load_checkpoint(path)


def test_a_checkpoint_altered_anywhere_is_refused_or_means_the_same(tmp_path):
    path = save_checkpoint(tmp_path, 5, state(0), METADATA)
    whole = path.read_bytes()
    refused = 0
    for place in range(0, len(whole), 3):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        try:
            checkpoint = load_checkpoint(path)
        except RunFolderError:
            refused += 1
        else:
            # Only blanks between the header's words may change unnoticed.
            assert (checkpoint.round_num, checkpoint.metadata) == (5, METADATA)
            assert same(checkpoint.arrays, state(0))
    assert refused > 0.95 * len(whole) / 3


def test_a_checkpoint_under_another_name_is_refused(tmp_path):
    path = save_checkpoint(tmp_path, 5, state(0), {})
    other = path.rename(path.with_name("round-000007.safetensors"))
    with pytest.raises(RunFolderError, match="round 5"):
        load_checkpoint(other)


def test_the_hint_leads_to_the_older_checkpoint(tmp_path):
    save_checkpoint(tmp_path, 4, state(4), {})
    newest = save_checkpoint(tmp_path, 5, state(5), {})
    newest.write_bytes(newest.read_bytes()[:-1])
    with pytest.raises(RunFolderError, match=r"round-000005.*remove it to go on from round 4"):
        load_checkpoint(newest)
    newest.unlink()
    older = newest_checkpoint(tmp_path)
    assert older is not None
    older.write_bytes(b"")
    with pytest.raises(RunFolderError, match="no older checkpoint"):
        load_checkpoint(older)


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_older_checkpoint_and_no_litter(tmp_path, monkeypatch, call):
    save_checkpoint(tmp_path, 4, state(4), {})
    older = save_checkpoint(tmp_path, 5, state(5), {})

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(RunFolderError, match=r"round-000006.*disk is full.*hint"):
            save_checkpoint(tmp_path, 6, state(6), {})
    assert newest_checkpoint(tmp_path) == older
    assert same(load_checkpoint(older).arrays, state(5))
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(RunFolderError, match=r"round-000001.*no such file"):
        load_checkpoint(tmp_path / "round-000001.safetensors")


def test_single_arrays_are_those_of_the_whole(tmp_path):
    path = save_checkpoint(tmp_path, 12, state(0), METADATA)
    index = open_checkpoint(path)
    assert (index.path, index.round_num) == (path, 12)
    assert same({name: index.read(name) for name in index.shapes}, load_checkpoint(path).arrays)
    assert {name: array.shape for name, array in load_checkpoint(path).arrays.items()} == index.shapes
    with pytest.raises(KeyError, match=r"expert\.7"):
        index.read("expert.7")


@pytest.mark.parametrize("length", [0, 4, 100, -1])
def test_what_is_cut_short_is_not_opened(tmp_path, length):
    path = save_checkpoint(tmp_path, 12, state(0), METADATA)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(RunFolderError, match=r"must be as it was written, got .*round-000012.*; hint: "):
        open_checkpoint(path)


def test_what_is_gone_is_not_opened_nor_read(tmp_path):
    path = save_checkpoint(tmp_path, 12, state(0), METADATA)
    index = open_checkpoint(path)
    path.unlink()
    for look in (lambda: open_checkpoint(path), lambda: index.read("gate")):
        with pytest.raises(RunFolderError, match="no such file or folder"):
            look()
