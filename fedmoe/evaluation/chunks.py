"""Clients taken several at a time: a bounded number of samples, so that memory does not grow with their number."""

from collections.abc import Iterator, Sequence

__all__ = ["chunks"]


def chunks(sizes: Sequence[int], limit: int) -> Iterator[slice]:
    """Yields consecutive clients whose samples are at most `limit` together; a larger client comes alone.

    >>> list(chunks([3, 4, 2, 9, 1], 8))
    [slice(0, 2, None), slice(2, 3, None), slice(3, 4, None), slice(4, 5, None)]

    Args:
        sizes: each client's samples.
        limit: samples.
    """
    start, total = 0, 0
    for n, size in enumerate(sizes):
        if n > start and total + size > limit:
            yield slice(start, n)
            start, total = n, 0
        total += size
    if start < len(sizes):
        yield slice(start, len(sizes))
