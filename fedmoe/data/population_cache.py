"""The population on disk, by partition hash: dealt once by the server, opened by every process that works with it."""

import json
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedmoe.data.population import Population
from fedmoe.data.storage import home, new_file
from fedmoe.errors import DataError

__all__ = ["keep_population", "open_population"]

ARRAYS = ("public_ids", "group_N", "domain_N")


def keep_population(population: Population) -> str:
    """Writes the population to the cache, unless it is there, and returns its partition hash."""
    key = population.fingerprint()
    file = _file(key)
    if file.is_file():
        return key
    words = {
        "num_training": population.num_training,
        "anchors": sorted(population.anchors.items()),
        "groups": population.groups,
        "domains": population.domains,
        "num_classes": population.num_classes,
        "notes": population.notes,
    }
    with new_file(file) as draft, draft.open("wb") as stream:
        np.savez(
            stream,
            shards=np.concatenate(population.shards),
            lengths=np.array([len(shard) for shard in population.shards]),
            words=np.array(json.dumps(words)),
            **{name: getattr(population, name) for name in ARRAYS},
        )
    return key


def open_population(key: str, labels_N: NDArray[np.int64]) -> Population:
    """Returns the population with this partition hash.

    Args:
        key: the hash.
        labels_N: label of every sample by id; they belong to the data and are not kept here.

    Raises:
        DataError: it is not in the cache, or its content is not what its hash says.
    """
    file = _file(key)
    try:
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as stored:
            words = json.loads(str(stored["words"]))
            shards = np.split(stored["shards"], np.cumsum(stored["lengths"])[:-1])
            arrays = {name: stored[name] for name in ARRAYS}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise _unusable(file, str(error)) from error
    population = Population(
        shards=tuple(shards),
        num_training=words["num_training"],
        anchors=dict(words["anchors"]),
        groups=tuple(tuple(group) for group in words["groups"]),
        domains=tuple(words["domains"]),
        num_classes=words["num_classes"],
        notes=tuple(words["notes"]),
        labels_N=labels_N,
        **arrays,
    )
    if population.fingerprint() != key:
        raise _unusable(file, "its content has another hash")
    return population


def _unusable(file: Path, got: str) -> DataError:
    return DataError(
        f"the population must be in the cache as {file}, got: {got}; hint: nodes need the server's $FEDMOE_HOME; "
        "remove a damaged file, and the next run writes it again"
    )


def _file(key: str) -> Path:
    return home() / "cache" / "populations" / f"{key}.npz"
