"""What clients keep on disk: the latest is found again, older files stay as long as a run may go back to them."""

from pathlib import Path

import numpy as np
import pytest

from fedmoe.errors import RunFolderError
from fedmoe.recording.client_states import ClientStates, RoundStates


def kept(value: float) -> dict[str, np.ndarray]:
    return {"private/expert/0": np.full(3, value, dtype=np.float32)}


def files(folder: Path, client_id: int) -> list[int]:
    return sorted(int(path.stem) for path in (folder / str(client_id)).iterdir())


def test_a_client_finds_what_it_kept_last(tmp_path: Path) -> None:
    states = ClientStates(tmp_path / "states")
    assert states.load(7, 5) == {}
    states.save(7, 2, kept(2))
    states.save(8, 2, kept(8))
    states.save(7, 4, kept(4))
    for round_num, value in ((2, 2), (3, 2), (4, 4), (9, 4)):
        (vector,) = states.load(7, round_num).values()
        assert vector.dtype == np.float32
        np.testing.assert_array_equal(vector, np.full(3, value))
    assert states.load(7, 1) == {}
    np.testing.assert_array_equal(states.load(8, 9)["private/expert/0"], np.full(3, 8))


def test_arrays_of_other_names_stay(tmp_path: Path) -> None:
    states = ClientStates(tmp_path)
    RoundStates(states, 1).keep(0, kept(1) | {"memory/control/gate": np.arange(2, dtype=np.float32)})
    RoundStates(states, 3).keep(0, kept(3))
    found = states.load(0, 3)
    np.testing.assert_array_equal(found["memory/control/gate"], [0, 1])
    np.testing.assert_array_equal(found["private/expert/0"], [3, 3, 3])


@pytest.mark.parametrize("every", [1, 3, 10])
@pytest.mark.parametrize("seed", range(5))
def test_a_run_may_go_back_to_either_of_its_last_two_checkpoints(tmp_path: Path, every: int, seed: int) -> None:
    states, rng = ClientStates(tmp_path, every), np.random.default_rng(seed)
    history: dict[int, float] = {}
    for round_num in range(1, 60):
        last = (round_num - 1) // every * every
        for back in {max(0, last - every), last}:
            expected = max((r for r in history if r <= back), default=0)
            found = states.load(0, back)
            assert bool(found) == (expected > 0)
            if found:
                assert found["private/expert/0"][0] == expected
        if rng.random() < 0.4:
            states.save(0, round_num, kept(round_num))
            history[round_num] = round_num
            assert len(files(tmp_path, 0)) <= 3


def test_what_came_after_a_checkpoint_is_forgotten(tmp_path: Path) -> None:
    states = ClientStates(tmp_path / "states")
    states.forget_after(0)
    for client, rounds in ((1, (1, 2, 3)), (2, (3,)), (3, (1,))):
        for round_num in rounds:
            states.save(client, round_num, kept(round_num))
    states.forget_after(2)
    assert [files(states.folder, client) for client in (1, 2, 3)] == [[1, 2], [], [1]]


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    states = ClientStates(tmp_path)
    states.save(4, 1, kept(1))
    (tmp_path / "4" / "1.safetensors").write_bytes(b"cut")
    with pytest.raises(RunFolderError, match=r"4/1\.safetensors"):
        states.load(4, 2)


def test_a_draft_that_was_left_is_not_taken_for_a_state(tmp_path: Path) -> None:
    states = ClientStates(tmp_path)
    states.save(4, 1, kept(1))
    (tmp_path / "4" / ".2.safetensors.99.tmp").write_bytes(b"half")
    assert states.load(4, 5)["private/expert/0"][0] == 1
    states.forget_after(0)
    assert states.load(4, 5) == {}


def test_a_rounds_later_jobs_find_what_its_earlier_ones_kept_but_nothing_that_a_dead_run_did(tmp_path: Path) -> None:
    states = ClientStates(tmp_path)
    states.save(7, 1, kept(1))
    states.save(7, 2, kept(99) | {"private/head/expert/0": np.ones(1, dtype=np.float32)})  # a killed run's
    current = RoundStates(states, 2)
    assert current.load(7)["private/expert/0"][0] == 1
    current.keep(7, {"memory/control/gate": np.zeros(2, dtype=np.float32)})
    assert sorted(current.load(7)) == ["memory/control/gate", "private/expert/0"]
    assert current.load(7)["private/expert/0"][0] == 1


def test_a_stray_file_does_not_disturb(tmp_path: Path) -> None:
    states = ClientStates(tmp_path)
    states.save(7, 1, kept(1))
    (tmp_path / ".DS_Store").write_bytes(b"")
    states.forget_after(0)
    assert states.load(7, 1) == {}
