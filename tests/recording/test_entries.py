"""What groups of runs tell is put together by rule: nothing is lost or told twice, and unlike things stay apart."""

import random
from collections.abc import Sequence

import pytest

from fedmoe.errors import RunFolderError
from fedmoe.recording.entries import Entry, put_together

Told = tuple[str, tuple[str, ...], int]  # what a run tells: a value that only equal settings and seeds share


def group_entries(rng: random.Random) -> list[Entry[Told]]:
    """Returns the entries of some groups of runs, by two settings: a main method and a baseline in each.

    Which settings count for the main method is drawn; either all count for the baseline, or none does.
    """
    counting = {key for key in ("a", "b") if rng.random() < 0.5}
    plain = rng.random() < 0.5
    entries = []
    for values in rng.sample([(0, 0), (0, 1), (1, 0), (1, 1)], rng.randint(1, 4)):
        settings = dict(zip("ab", values, strict=True))
        whole = tuple(f"{key}={value}" for key, value in settings.items())
        main = tuple(f"{key}={value}" for key, value in settings.items() if key in counting)
        tags = {"main": main, "baseline": () if plain else whole}
        seeds = rng.sample(range(4), rng.randint(1, 3))
        for method, tag in tags.items():
            entries.append(
                Entry(method, "p", tag, whole, method == "main", {seed: (method, tag, seed) for seed in seeds})
            )
    return entries


def by_title(entries: Sequence[Entry[Told]]) -> dict[tuple[str, tuple[str, ...]], dict[int, Told]]:
    """Returns what is told under each title, each of which must be there once."""
    found = {(entry.method, entry.tag): dict(entry.by_seed) for entry in entries}
    assert len(found) == len(entries), "a title is there twice"
    return found


@pytest.mark.parametrize("block", range(5))
def test_nothing_is_lost_or_told_twice_and_unlike_things_stay_apart(block: int) -> None:
    for trial in range(100):
        rng = random.Random(100 * block + trial)
        entries = group_entries(rng)
        put = by_title(put_together(entries))
        told = [value for own in put.values() for value in own.values()]
        assert sorted(told) == sorted({value for entry in entries for value in entry.by_seed.values()}), trial
        for own in put.values():
            assert len({(method, tag) for method, tag, _ in own.values()}) == 1, trial
        rng.shuffle(entries)
        assert by_title(put_together(entries)) == put, f"trial {trial}: the order of the runs must not tell"


def test_entries_that_disagree_are_told_apart_by_all_settings_or_refused() -> None:
    one = Entry("main", "p", (), ("a=0",), True, {0: "x"})
    other = Entry("main", "p", (), ("a=1",), True, {0: "y"})
    assert [entry.tag for entry in put_together([one, other])] == [("a=0",), ("a=1",)]
    twin = Entry("main", "p", (), ("a=0",), True, {0: "y"})
    with pytest.raises(RunFolderError, match="each run must be there once"):
        put_together([one, twin])
