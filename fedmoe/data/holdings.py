"""Who holds which samples, as two flat arrays: 100,000 clients are no 100,000 Python objects."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import overload

import numpy as np
from numpy.typing import NDArray

from fedmoe.data.contracts import Ids

__all__ = ["Holdings", "LabelSet"]

LabelSet = tuple[int, ...]

ROWS = 8192  # holders that are looked at together, where a table of all of them would grow with the population


@dataclass(frozen=True, eq=False)
class Holdings(Sequence[Ids]):
    """Each holder's sample ids; an item is a view into the flat array, made when it is asked for.

    >>> held = Holdings.of([np.array([3, 5]), np.array([4])])
    >>> held[0], len(held), held.sizes
    (array([3, 5]), 2, array([2, 1]))

    Attributes:
        ids: int64 sample ids of all holders, one holder after the other.
        starts: int64, one more than there are holders: holder h has `ids[starts[h]:starts[h + 1]]`.
    """

    ids: Ids
    starts: NDArray[np.int64]

    @classmethod
    def of(cls, shares: Sequence[Ids]) -> "Holdings":
        """Returns the shares as holdings, in their order; holdings as they are."""
        if isinstance(shares, Holdings):
            return shares
        starts = np.zeros(len(shares) + 1, dtype=np.int64)
        np.cumsum([len(share) for share in shares], out=starts[1:])
        return cls(np.concatenate([np.zeros(0, dtype=np.int64), *shares]), starts)

    @classmethod
    def joined(cls, parts: Iterable["Holdings"]) -> "Holdings":
        """Returns the holders of all parts, part after part."""
        kept = list(parts)
        sizes = np.concatenate([np.zeros(1, dtype=np.int64), *(part.sizes for part in kept)])
        return cls(np.concatenate([part.ids for part in kept]), np.cumsum(sizes))

    def __len__(self) -> int:
        return len(self.starts) - 1

    @overload
    def __getitem__(self, index: int) -> Ids: ...

    @overload
    def __getitem__(self, index: slice) -> "Holdings": ...

    def __getitem__(self, index: int | slice) -> "Ids | Holdings":
        if isinstance(index, slice):
            first, last, step = index.indices(len(self))
            if step != 1:
                raise ValueError(f"holdings are cut in steps of 1, got {step}")
            starts = self.starts[first : max(first, last) + 1]
            return Holdings(self.ids[starts[0] : starts[-1]], starts - starts[0])
        number = index + len(self) if index < 0 else index
        if not 0 <= number < len(self):
            raise IndexError(f"there are {len(self)} holders, got {index}")
        return self.ids[self.starts.item(number) : self.starts.item(number + 1)]

    def __iter__(self) -> Iterator[Ids]:
        bounds = self.starts.tolist()
        for first, last in pairwise(bounds):
            yield self.ids[first:last]

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Number of samples of each holder."""
        return np.diff(self.starts)

    def sorted(self) -> "Holdings":
        """Returns the same holdings, the samples of each holder ascending."""
        ids = np.array(self.ids, dtype=np.int64)
        for share in Holdings(ids, self.starts):
            share.sort()
        return Holdings(ids, self.starts)

    def pieces(self) -> Iterator[NDArray[np.int64]]:
        """Yields all holders' samples, the number of each holder's before them, a few thousand holders at a time.

        With that number a hash of the pieces sees a sample that moves to the next holder.
        """
        for first in range(0, len(self), ROWS):
            some = self[first : first + ROWS]
            yield np.insert(some.ids, some.starts[:-1], some.sizes)

    def label_counts(self, labels_N: NDArray[np.int64], num_classes: int) -> NDArray[np.int64]:
        """Returns the number of samples of each label (column) that each holder (row) has."""
        owners = np.repeat(np.arange(len(self)), self.sizes)
        counts = np.bincount(owners * num_classes + labels_N[self.ids], minlength=len(self) * num_classes)
        return counts.reshape(len(self), num_classes).astype(np.int64, copy=False)

    def label_sets(self, labels_N: NDArray[np.int64]) -> Iterator[LabelSet]:
        """Yields the distinct labels of each holder, ascending, holder after holder."""
        for first in range(0, len(self), ROWS):
            some = self[first : first + ROWS]
            owners = np.repeat(np.arange(len(some)), some.sizes)
            labels = labels_N[some.ids]
            width = int(labels.max(initial=0)) + 1
            owners, labels = np.divmod(np.unique(owners * width + labels), width)
            listed, begin = labels.tolist(), 0
            for end in np.searchsorted(owners, np.arange(1, len(some) + 1)).tolist():
                yield tuple(listed[begin:end])
                begin = end
