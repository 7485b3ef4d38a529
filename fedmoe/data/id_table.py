"""The table that flwr-datasets' partitioners split: it knows sample ids, and its parts are such ids at once.

Importing it takes seconds (pandas, pyarrow), so it is imported where a partitioner is asked.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

from fedmoe.data.contracts import Ids

__all__ = ["IdTable"]


class IdTable(Dataset):  # type: ignore[misc]
    """A `datasets.Dataset` of sample ids and columns whose `select`, and so a partitioner's part, gives ids.

    Dataset's own `select` makes a table of every part, which takes 2 ms, and it reads a column in Python, sample by
    sample: 100,000 clients would wait for minutes.
    """

    ids: Ids
    columns: Mapping[str, NDArray[np.int64]]

    @classmethod
    def of(cls, ids: Ids, columns: Mapping[str, NDArray[np.int64]]) -> "IdTable":
        """Returns the table with a row for each id, in their order.

        Args:
            ids: sample ids.
            columns: name -> value of each row.
        """
        table: IdTable = cls.from_dict({"id": ids, **columns})
        table.ids, table.columns = ids, columns
        return table

    def select(self, indices: Iterable[int], *_: Any, **__: Any) -> Ids:
        """Returns the ids of the rows `indices`, in that order."""
        if isinstance(indices, range) and indices.step == 1:
            return self.ids[indices.start : indices.stop]
        return self.ids[np.asarray(indices, dtype=np.int64)]

    def sort(self, column_names: str, *_: Any, **__: Any) -> "IdTable":
        """Returns the table sorted by a column; rows of equal value keep their order."""
        order = np.argsort(self.columns[column_names], kind="stable")
        return IdTable.of(self.ids[order], {name: values[order] for name, values in self.columns.items()})

    def __getitem__(self, key: Any) -> Any:
        return self.columns[key] if key in self.columns else super().__getitem__(key)
