"""The population on disk, by partition hash: dealt once by the server, opened by every process that works with it.

```
<home>/cache/populations/<hash>/  ids.npy  starts.npy  public.npy  group.npy  domain.npy  words.json
```
"""

import json
import logging
import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedmoe.data.holdings import Holdings
from fedmoe.data.population import Population
from fedmoe.data.storage import home, mapped, new_folder
from fedmoe.errors import DataError

__all__ = ["keep_population", "open_population"]

_log = logging.getLogger(__name__)


def keep_population(population: Population) -> str:
    """Writes the population to the cache, unless it is there, and returns its partition hash.

    Raises:
        DataError: the cache cannot be written.
    """
    key = population.fingerprint()
    folder = _folder(key)
    if folder.is_dir():
        try:
            open_population(key, population.labels_N)
        except DataError as error:
            _log.warning("%s; it is written anew", error)
            shutil.rmtree(folder, ignore_errors=True)
        else:
            return key
    words = {
        "num_training": population.num_training,
        "anchors": sorted(population.anchors.items()),
        "groups": population.groups,
        "domains": population.domains,
        "num_classes": population.num_classes,
        "notes": population.notes,
    }
    arrays = {
        "ids": population.shards.ids,
        "starts": population.shards.starts,
        "public": population.public_ids,
        "group": population.group_N,
        "domain": population.domain_N,
    }
    with new_folder(folder) as draft:
        for name, array in arrays.items():
            np.save(draft / f"{name}.npy", array)
        (draft / "words.json").write_text(json.dumps(words))
    return key


def open_population(key: str, labels_N: NDArray[np.int64]) -> Population:
    """Returns the population with this partition hash, its arrays memory-mapped and read-only.

    Args:
        key: the hash.
        labels_N: label of every sample by id; they belong to the data and are not kept here.

    Raises:
        DataError: it is not in the cache, or its content is not what its hash says.
    """
    folder = _folder(key)
    try:
        words = json.loads((folder / "words.json").read_text())
        population = Population(
            shards=Holdings(mapped(folder / "ids.npy"), mapped(folder / "starts.npy")),
            num_training=words["num_training"],
            anchors=dict(words["anchors"]),
            groups=tuple(tuple(group) for group in words["groups"]),
            domains=tuple(words["domains"]),
            num_classes=words["num_classes"],
            notes=tuple(words["notes"]),
            labels_N=labels_N,
            public_ids=mapped(folder / "public.npy"),
            group_N=mapped(folder / "group.npy"),
            domain_N=mapped(folder / "domain.npy"),
        )
        intact = population.fingerprint() == key
    except (OSError, ValueError, KeyError, TypeError, IndexError, EOFError) as error:
        raise _unusable(folder, str(error)) from error
    if not intact:
        raise _unusable(folder, "its content has another hash")
    return population


def _unusable(folder: Path, got: str) -> DataError:
    return DataError(
        f"the population must be in the cache as {folder}, got: {got}; hint: nodes need the server's $FEDMOE_HOME; "
        "remove a damaged folder, and the next run writes it again"
    )


def _folder(key: str) -> Path:
    return home() / "cache" / "populations" / key
