"""The cache of embeddings holds what was computed, chunk by chunk, and nothing half."""

import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fedmoe.data.embeddings import Chunk, embedding_table, open_embeddings
from fedmoe.data.storage import home
from fedmoe.errors import DataError

ROWS, WIDTH, CLASSES = 100, 7, 3


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDMOE_HOME", str(tmp_path))


def chunks(seed: int, rows: int = ROWS) -> list[Chunk]:
    """Returns embeddings and logits in pieces of all sizes."""
    rng = np.random.default_rng(seed)
    cuts = np.sort(rng.choice(rows, 5, replace=False))
    both = rng.standard_normal((rows, WIDTH + CLASSES)).astype(np.float32)
    return [(part[:, :WIDTH], part[:, WIDTH:]) for part in np.split(both, cuts)]


@pytest.mark.parametrize("seed", range(3))
def test_the_table_is_what_was_computed_and_is_computed_once(seed: int) -> None:
    given = chunks(seed)
    table = embedding_table("data", f"expert {seed}", ROWS, lambda: iter(given))
    assert table.embeddings.tobytes() == np.concatenate([embedding for embedding, _ in given]).tobytes()
    assert table.logits.tobytes() == np.concatenate([logits for _, logits in given]).tobytes()
    assert (table.embeddings.dtype, table.embeddings.shape) == (np.float32, (ROWS, WIDTH))
    assert (table.logits.shape, table.computed) == ((ROWS, CLASSES), ROWS)
    again = embedding_table("data", f"expert {seed}", ROWS, lambda: pytest.fail("computed again"))
    assert (again.key, again.computed) == (table.key, 0)
    assert again.logits.tobytes() == table.logits.tobytes()


def test_a_chunk_is_let_go_of_before_the_next_but_one_is_asked_for() -> None:
    alive: list[weakref.ref[np.ndarray]] = []

    def compute() -> Iterator[Chunk]:
        for embeddings, logits in chunks(0):
            assert sum(chunk() is not None for chunk in alive) <= 1
            own = embeddings.copy()
            alive.append(weakref.ref(own))
            yield own, logits
            del own

    embedding_table("data", "expert", ROWS, compute)
    assert len(alive) == 6


@pytest.mark.parametrize("rows", [ROWS - 1, ROWS + 1, 0])
def test_another_number_of_rows_is_refused_and_nothing_is_kept(tmp_path: Path, rows: int) -> None:
    given = chunks(0, rows) if rows else []
    with pytest.raises(DataError, match=f"{ROWS} embeddings were expected, got {rows}"):
        embedding_table("data", "expert", ROWS, lambda: given)
    assert not list(tmp_path.rglob("*.npy"))


def test_a_damaged_table_is_refused_with_a_hint() -> None:
    table = embedding_table("data", "expert", ROWS, lambda: chunks(1))
    file = home() / "cache" / "embeddings" / table.key / "logits.npy"
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(DataError, match="hint: remove that folder"):
        open_embeddings(table.key)
    with pytest.raises(DataError, match="must hold"):
        open_embeddings("none")
