"""What groups of runs tell of their methods, each title once: equal things are put together, others get a tag."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from fedmoe.errors import RunFolderError

__all__ = ["Entry", "joined", "put_together"]

T = TypeVar("T")


@dataclass(frozen=True)
class Entry(Generic[T]):
    """What one group of runs tells of a method.

    Attributes:
        method: its title.
        part: of what it tells, such as a way to predict.
        tag: the settings in which the groups differ, as `key=value`: those that count for the method.
        whole_tag: all of them.
        is_main: whether the method is what the runs are about, rather than a baseline.
        by_seed: what is told, by seed.
    """

    method: str
    part: str
    tag: tuple[str, ...]
    whole_tag: tuple[str, ...]
    is_main: bool
    by_seed: Mapping[int, T]


def put_together(entries: Sequence[Entry[T]], figures: Callable[[T], Any] = lambda own: own) -> list[Entry[T]]:
    """Returns the entries with each title there once, in the order in which titles come first.

    Entries of a method that differ in nothing that counts for it are one, with the seeds of all, where they agree. Of a
    baseline (the common expert, an equal dense model) that all groups tell alike one is left, without a tag.

    Args:
        entries: of all groups.
        figures: of what is told of a seed, that which has to be the same.

    Raises:
        RunFolderError: two entries with all of their settings equal tell different things.
    """
    alike: dict[tuple[str, ...], list[Entry[T]]] = {}
    for entry in entries:
        alike.setdefault((entry.method, entry.part, *entry.tag), []).append(entry)
    one_each = [united for members in alike.values() for united in _united(members, figures)]
    same: dict[tuple[str, str], list[Entry[T]]] = {}
    for entry in one_each:
        same.setdefault((entry.method, entry.part), []).append(entry)
    shared = {key: _shared(members, figures) for key, members in same.items()}
    several = {method for (method, _), entry in shared.items() if entry is None}
    found: dict[tuple[str, ...], Entry[T]] = {}
    for entry in one_each:
        common = None if entry.method in several else shared[entry.method, entry.part]
        titled = entry if common is None or (entry.is_main and entry.tag) else common
        other = found.setdefault((titled.method, titled.part, *titled.tag), titled)
        if other is not titled:
            raise RunFolderError(
                f"each run must be there once, got several of equal settings that differ in what they tell of "
                f"{titled.method}; hint: compare fewer at a time"
            )
    return list(found.values())


def joined(
    told: Sequence[Mapping[int, T]], figures: Callable[[T], Any] = lambda own: own, *, apart: bool = False
) -> dict[int, T] | None:
    """Returns what several groups of runs tell, seed by seed, if it is the same; `None` if nothing says that it is.

    It is the same where groups agree on all seeds that they share, and shared seeds lead from each group to all others.

    Args:
        told: what each group tells, by seed; where several tell of a seed, the earlier one counts.
        figures: of what is told of a seed, that which has to be the same.
        apart: whether groups without a shared seed may be put together, too, for their settings are equal.

    >>> joined([{0: "a", 1: "b"}, {2: "c", 3: "d"}, {1: "b", 2: "c"}])
    {0: 'a', 1: 'b', 2: 'c', 3: 'd'}
    >>> joined([{0: "a"}, {1: "b"}]), joined([{0: "a"}, {0: "b"}]), joined([{0: "a"}, {1: "b"}], apart=True)
    (None, None, {0: 'a', 1: 'b'})
    """
    whole, rest = dict(told[0]), list(told[1:])
    while rest:
        own = next((own for own in rest if set(own) & set(whole)), rest[0] if apart else None)
        if own is None or any(figures(own[seed]) != figures(whole[seed]) for seed in set(own) & set(whole)):
            return None
        rest.remove(own)
        whole = {**own, **whole}
    return dict(sorted(whole.items()))


def _united(entries: Sequence[Entry[T]], figures: Callable[[T], Any]) -> list[Entry[T]]:
    """Returns entries of one title as one with all seeds; where they disagree, each with all of its settings told."""
    whole = joined([entry.by_seed for entry in entries], figures, apart=True)
    if whole is None:
        return [replace(entry, tag=entry.whole_tag) for entry in entries]
    return [replace(entries[0], by_seed=whole, is_main=any(entry.is_main for entry in entries))]


def _shared(entries: Sequence[Entry[T]], figures: Callable[[T], Any]) -> Entry[T] | None:
    """Returns a method's entries as one without a tag; `None` where they are not the same."""
    whole = joined([entry.by_seed for entry in entries], figures)
    if whole is None or len({entry.is_main for entry in entries}) > 1:
        return None
    return replace(entries[0], by_seed=whole, tag=())
