"""The door to flwr-datasets: the parts are those that its partitioners give of a plain table."""

from collections.abc import Callable

import numpy as np
import pytest
from datasets import Dataset
from flwr_datasets.partitioner import (
    DirichletPartitioner,
    GroupedNaturalIdPartitioner,
    IidPartitioner,
    Partitioner,
    PathologicalPartitioner,
    ShardPartitioner,
    SizePartitioner,
    SquarePartitioner,
)

from fedmoe.data.partitioner import split
from fedmoe.errors import SettingsError
from fedmoe.seeding import numpy_stream

PARTS, SAMPLES, CLASSES = 12, 700, 10
KINDS: dict[str, Callable[[int], Partitioner]] = {
    "iid": lambda _: IidPartitioner(PARTS),
    "sizes": lambda _: SizePartitioner([7, 50, 1, *[9] * (PARTS - 3)]),
    "squares": lambda _: SquarePartitioner(PARTS),
    "dirichlet": lambda seed: DirichletPartitioner(PARTS, "label", 0.3, 1, False, False, seed),
    "dirichlet, shuffled": lambda seed: DirichletPartitioner(PARTS, "label", 0.3, 1, True, True, seed),
    "random labels": lambda seed: PathologicalPartitioner(PARTS, "label", 4, "random", False, seed),
    "neighbours": lambda seed: PathologicalPartitioner(PARTS, "label", 4, "deterministic", False, seed),
    "shards": lambda seed: ShardPartitioner(PARTS, "label", 3, None, False, False, seed),
    "shards of a size": lambda seed: ShardPartitioner(PARTS, "label", None, 21, True, True, seed),
    "owners": lambda _: GroupedNaturalIdPartitioner("owner", 1, sort_unique_ids=True),
    "owners as they come": lambda _: GroupedNaturalIdPartitioner("owner", 2),
}


def table(seed: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Returns ids with gaps, and columns of every sample there is."""
    rng = np.random.default_rng(seed)
    ids = np.sort(rng.choice(2 * SAMPLES, SAMPLES, replace=False))
    return ids, {"label": rng.integers(0, CLASSES, 2 * SAMPLES), "owner": rng.integers(100, 130, 2 * SAMPLES)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_parts_are_those_of_a_plain_table(seed: int, kind: str) -> None:
    ids, columns = table(seed)
    parts = split(KINDS[kind](seed), PARTS, ids, columns, seed=seed, hint="none")
    plain, shuffled = KINDS[kind](seed), numpy_stream(seed, "table").permutation(ids)
    plain.dataset = Dataset.from_dict({"id": shuffled, **{name: column[shuffled] for name, column in columns.items()}})
    expected = [sorted(plain.load_partition(part)[:]["id"]) for part in range(PARTS)]
    assert [part.tolist() for part in parts] == expected
    assert sum(map(len, expected)) > SAMPLES / 6


def test_a_partitioner_that_refuses_is_quoted_with_the_hint() -> None:
    ids, columns = table(0)
    with pytest.raises(
        SettingsError, match=r"700 samples cannot be split over 12 clients: .*greater than.*hint: fewer"
    ):
        split(PathologicalPartitioner(PARTS, "label", 11), PARTS, ids, columns, seed=0, hint="fewer")
    with pytest.raises(SettingsError, match="got 700 for 701 clients; hint: fewer"):
        split(IidPartitioner(701), 701, ids, columns, seed=0, hint="fewer")
