"""What loading gave the last time: from a data set's name, its files and its loader's code to a fingerprint.

It only saves time, so it forgets whenever it is in doubt: a loader given by reference, a root with very many files, a
file of another size or time, an edited loader. `<home>/cache/data/index/<key>` holds a fingerprint.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

from fedmoe.data.contracts import LoadRequest
from fedmoe.data.storage import data_folder, home, new_file

__all__ = ["recall", "remember"]

MOST_FILES = 200_000


def recall(name: str, request: LoadRequest) -> str | None:
    """Returns the fingerprint that loading `name` gave before under equal circumstances, or `None`."""
    for seed in (None, request.seed):
        entry = _entry(name, request, seed)
        if entry is not None and entry.is_file():
            fingerprint = entry.read_text().strip()
            if re.fullmatch("[0-9a-f]{64}", fingerprint):
                return fingerprint
    return None


def remember(name: str, request: LoadRequest, fingerprint: str, *, real: bool) -> None:
    """Notes what loading `name` gave; for generated data (`real` is False) the seed is one of the circumstances."""
    entry = _entry(name, request, None if real else request.seed)
    if entry is not None:
        with new_file(entry) as draft:
            draft.write_text(fingerprint + "\n")


def _entry(name: str, request: LoadRequest, seed: int | None) -> Path | None:
    """Returns the file that holds the fingerprint, `None` when the circumstances cannot be told in full."""
    files = _files(data_folder(request.root))
    if ":" in name or files is None:
        return None
    told = json.dumps([name.replace("-", "_"), seed, str(data_folder(request.root)), files, _code()])
    return home() / "cache" / "data" / "index" / hashlib.sha256(told.encode()).hexdigest()


def _files(root: Path) -> list[tuple[str, int, int]] | None:
    """Returns name, size and time of change of every file under `root`, sorted; `None` when there are too many."""
    found: list[tuple[str, int, int]] = []
    for path, status in _walk(root):
        found.append((path, status.st_size, status.st_mtime_ns))
        if len(found) > MOST_FILES:
            return None
    return sorted(found)


def _walk(root: Path) -> Iterator[tuple[str, os.stat_result]]:
    if root.is_file():
        yield str(root), root.stat()
        return
    for folder, _, names in os.walk(root):
        for name in names:
            path = os.path.join(folder, name)
            # A link that leads nowhere is a file that changed, not a reason to stop.
            yield path, os.stat(path) if os.path.exists(path) else os.lstat(path)


def _code() -> str:
    """Returns a hash of the loaders' source, so that an edited loader loads anew."""
    sources = [*Path(__file__).parent.glob("*.py"), *Path(__file__).parent.glob("datasets/*.py")]
    digest = hashlib.sha256()
    for source in sorted(sources):
        digest.update(source.read_bytes())
    return digest.hexdigest()
