"""A run's data as memory-mapped arrays in a cache that is addressed by content, so that many processes share them.

```
<home>/cache/data/<fingerprint>/  x.npy  y.npy  [natural.npy]  [domain.npy]  meta.json
```
"""

import hashlib
import json
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmoe.data.contracts import Dataset
from fedmoe.data.storage import home, mapped, new_folder
from fedmoe.errors import DataError

__all__ = ["PreparedData", "cache_folder", "fingerprint_of", "keep", "open_prepared"]

ROWS = 8192

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PreparedData:
    """Data that is ready for every process of a run.

    Attributes:
        dataset: its arrays are memory-mapped and read-only.
        fingerprint: SHA-256 of the content: arrays and names.
        stand_in_for: name of the data set that could not be had, where generated data took its place; `None`: no such
            thing. It belongs to the run and not to the content, so `open_prepared` does not know it.
        folder: where the arrays lie.
    """

    dataset: Dataset
    fingerprint: str
    stand_in_for: str | None
    folder: Path


def open_prepared(fingerprint: str) -> PreparedData:
    """Returns data that some process on this machine prepared before, memory-mapped.

    Raises:
        DataError: it is not in the cache, or damaged there.
    """
    folder = cache_folder(fingerprint)
    if not folder.is_dir():
        raise DataError(
            f"prepared data must lie in {folder}, and does not; "
            "hint: does this process see the same FEDMOE_HOME as the one that prepared it?"
        )
    try:
        meta = json.loads((folder / "meta.json").read_text())
        arrays = {key: mapped(folder / f"{key}.npy") for key in meta["arrays"]}
        dataset = Dataset(
            name=meta["name"],
            real=meta["real"],
            x_NCHW=arrays["x"],
            y_N=arrays["y"],
            num_train=meta["num_train"],
            class_names=tuple(meta["class_names"]),
            natural_N=arrays.get("natural"),
            domain_N=arrays.get("domain"),
        )
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"prepared data is damaged: {folder} ({error}); hint: delete that folder") from error
    return PreparedData(dataset=dataset, fingerprint=fingerprint, stand_in_for=None, folder=folder)


def keep(dataset: Dataset, fingerprint: str) -> PreparedData:
    """Returns `dataset` as it lies in the cache under `fingerprint`, after putting it there if need be.

    Raises:
        DataError: the cache cannot be written.
    """
    folder = cache_folder(fingerprint)
    if folder.exists():
        try:
            return open_prepared(fingerprint)
        except DataError as error:
            _log.warning("%s; it is written anew", error)
            shutil.rmtree(folder, ignore_errors=True)
    with new_folder(folder) as draft:
        arrays = _arrays(dataset)
        for key, array in arrays.items():
            np.save(draft / f"{key}.npy", array)
        (draft / "meta.json").write_text(json.dumps(_meta(dataset), indent=1))
    return open_prepared(fingerprint)


def fingerprint_of(dataset: Dataset) -> str:
    """Returns the SHA-256 of the data set's arrays and names, 64 hexadecimal digits."""
    digest = hashlib.sha256(json.dumps(_meta(dataset), sort_keys=True).encode())
    for array in _arrays(dataset).values():
        # In pieces: a memory-mapped array need not fit in memory.
        for start in range(0, len(array), ROWS):
            digest.update(np.ascontiguousarray(array[start : start + ROWS]).data)
    return digest.hexdigest()


def cache_folder(fingerprint: str) -> Path:
    """Returns the folder of the data with this fingerprint, whether or not it exists."""
    return home() / "cache" / "data" / fingerprint


def _arrays(dataset: Dataset) -> dict[str, NDArray[Any]]:
    arrays: dict[str, NDArray[Any]] = {"x": dataset.x_NCHW, "y": dataset.y_N}
    owned = {"natural": dataset.natural_N, "domain": dataset.domain_N}
    return arrays | {name: array for name, array in owned.items() if array is not None}


def _meta(dataset: Dataset) -> dict[str, Any]:
    return {
        "name": dataset.name,
        "real": dataset.real,
        "num_train": dataset.num_train,
        "class_names": list(dataset.class_names),
        "arrays": {key: [str(array.dtype), list(array.shape)] for key, array in _arrays(dataset).items()},
    }
