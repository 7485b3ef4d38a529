"""The door to flwr-datasets: one of its partitioners and a table of labels -> the sample ids of each part."""

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedmoe.data.contracts import Deal, Ids
from fedmoe.data.holdings import Holdings
from fedmoe.errors import SettingsError
from fedmoe.seeding import derive_seed, numpy_stream

if TYPE_CHECKING:
    from flwr_datasets.partitioner import Partitioner

__all__ = ["partitioner_seed", "split"]


def partitioner_seed(deal: Deal, *path: str | int) -> int:
    """Returns the seed (0 <= seed < 2**63) for a flwr-datasets partitioner that serves `deal`."""
    return derive_seed(deal.seed, "partitioner", *path)


def split(
    partitioner: "Partitioner",
    num_parts: int,
    ids: Ids,
    columns: Mapping[str, NDArray[np.int64]],
    *,
    seed: int,
    hint: str,
) -> Holdings:
    """Returns the sample ids of the first `num_parts` parts, each sorted: `ids` as the partitioner splits them.

    The partitioners take a label's samples in the order of the table, so the table is shuffled first.

    Args:
        partitioner: of flwr-datasets, without a data set yet.
        num_parts: parts to read.
        ids: sample ids to split.
        columns: name -> value of every sample by id; what the partitioner goes by ("label", say).
        seed: of the shuffle.
        hint: what to change when the partitioner refuses, in the words of the settings.

    Raises:
        SettingsError: the partitioner refuses, with its own reason.
    """
    from fedmoe.data.id_table import IdTable  # here, not above: pandas and pyarrow take seconds to import

    if len(ids) < num_parts:
        raise SettingsError(f"every client must get a sample, got {len(ids)} for {num_parts} clients; hint: {hint}")
    shuffled = numpy_stream(seed, "table").permutation(ids)
    partitioner.dataset = IdTable.of(shuffled, {name: values[shuffled] for name, values in columns.items()})
    try:
        with warnings.catch_warnings():
            # They warn of each redraw and of labels that nobody holds; what a reader must know goes into the notes.
            warnings.simplefilter("ignore")
            parts: list[Any] = [partitioner.load_partition(part) for part in range(num_parts)]
    except ValueError as error:
        raise SettingsError(
            f"{len(ids)} samples cannot be split over {num_parts} clients: {' '.join(str(error).split())}; hint: {hint}"
        ) from error
    return Holdings.of(parts).sorted()
