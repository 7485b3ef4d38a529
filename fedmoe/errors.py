"""What can go wrong, as a tree; every message states the rule, what was got, and a hint.

```
FedmoeError
├── SettingsError        a setting is unknown, of the wrong type, out of range, or contradicts another
│   └── ReferenceError_  a name or "module:Attribute" leads nowhere
├── DataError            a data file is missing, broken or cannot be had
├── RunFolderError       a run folder or checkpoint is damaged, full, or of other settings
├── RoundError           too few clients of a round gave a usable update
└── WorkerError          a node's worker process died, or cannot do what was asked
```
"""

import difflib
from collections.abc import Iterable

__all__ = [
    "DataError",
    "FedmoeError",
    "ReferenceError_",
    "RoundError",
    "RunFolderError",
    "SettingsError",
    "SweepError",
    "WorkerError",
    "nearest_hint",
]


class FedmoeError(Exception):
    """Any failure that this library explains itself: catch it to print one line in place of a traceback."""


class SettingsError(FedmoeError):
    """A setting is unknown, of the wrong type, out of range, or contradicts another."""


class ReferenceError_(SettingsError):  # noqa: N801,N818 - `ReferenceError` is a builtin
    """A short name or a `"module:Attribute"` reference leads nowhere."""


class DataError(FedmoeError):
    """A data file is missing, broken, or cannot be downloaded."""


class RunFolderError(FedmoeError):
    """A run folder or a checkpoint is damaged, cannot be written, or belongs to other settings."""


class RoundError(FedmoeError):
    """Too few of a round's clients gave a usable update."""


class WorkerError(FedmoeError):
    """A worker process of a node died, or cannot do what was asked of it."""


class SweepError(FedmoeError):
    """Some runs of a sweep failed."""


def nearest_hint(name: str, known: Iterable[str]) -> str:
    """Returns a hint that ends an error message: the nearest known name, then all of them.

    >>> nearest_hint("fedjet", ["fedavg", "fedjets"])
    "did you mean 'fedjets'? known: fedavg, fedjets"
    """
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    listing = f"known: {', '.join(names)}"
    return f"did you mean '{close[0]}'? {listing}" if close else listing
