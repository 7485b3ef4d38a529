"""The way to a run's data: loaded once, kept by content, memory-mapped by every process that works with it."""

import logging
from dataclasses import replace

import numpy as np

from fedmoe.data.content_cache import PreparedData, fingerprint_of, keep, open_prepared
from fedmoe.data.contracts import Dataset, Loader, LoadRequest
from fedmoe.data.domain_shift import apply_domains
from fedmoe.data.downloads import DataMissingError
from fedmoe.data.loaded_before import recall, remember
from fedmoe.errors import DataError
from fedmoe.references import load_plugin

__all__ = ["PreparedData", "apply_domains", "open_prepared", "prepare"]

STAND_IN = "clusters"

_log = logging.getLogger(__name__)


def prepare(name: str, request: LoadRequest, *, source: str) -> PreparedData:
    """Returns the data set `name`, from the cache where it was loaded before.

    Args:
        name: a short name or `"module:Attribute"`.
        request: what its loader is told.
        source: `"auto"`: generated data (`clusters`) stands in when the data is neither here nor to be downloaded.
            A file that is here but broken is no reason for a stand-in.

    Raises:
        ReferenceError_: there is no such data set.
        DataError: its files are missing or broken, or the cache cannot be written.
    """
    loader: Loader = load_plugin("data set", "fedmoe.data.datasets", name)
    try:
        return _loaded_or_recalled(name, loader, request)
    except DataMissingError as error:
        if source != "auto" or name == STAND_IN:
            raise
        _log.warning("%s; generated data, '%s', stands in for it", error, STAND_IN)
    # The root was meant for the missing data; the generated one reads no file.
    stand_in = prepare(STAND_IN, replace(request, root=None), source="")
    return replace(stand_in, stand_in_for=name)


def _loaded_or_recalled(name: str, loader: Loader, request: LoadRequest) -> PreparedData:
    fingerprint = recall(name, request)
    if fingerprint is not None:
        try:
            return open_prepared(fingerprint)
        except DataError:
            _log.info("prepared data %s is gone from the cache; '%s' is loaded again", fingerprint, name)
    dataset = loader(request)
    _check(name, dataset)
    prepared = keep(dataset, fingerprint_of(dataset))
    remember(name, request, prepared.fingerprint, real=dataset.real)
    return prepared


def _check(name: str, dataset: Dataset) -> None:
    x_NCHW, y_N = dataset.x_NCHW, dataset.y_N
    num = len(y_N)
    rules = {
        "images must be uint8 and 4-dimensional (NCHW)": x_NCHW.dtype == np.uint8 and x_NCHW.ndim == 4,
        "labels must be int64, one an image": y_N.dtype == np.int64 and y_N.shape == (len(x_NCHW),),
        "there must be training and test samples": 0 < dataset.num_train < num,
        "labels must lie in [0, number of class names)": num > 0
        and int(y_N.min()) >= 0
        and int(y_N.max()) < len(dataset.class_names),
        "there must be one natural owner a sample": dataset.natural_N is None or dataset.natural_N.shape == (num,),
        "there must be one domain a sample, from 0 on": dataset.domain_N is None
        or (dataset.domain_N.shape == (num,) and int(dataset.domain_N.min()) >= 0),
    }
    for rule, kept in rules.items():
        if not kept:
            raise DataError(
                f"data set '{name}': {rule}; got images {x_NCHW.dtype}{list(x_NCHW.shape)}, labels {y_N.dtype}"
                f"{list(y_N.shape)}, {dataset.num_train} for training, {len(dataset.class_names)} class names; "
                "hint: see fedmoe.data.contracts.Dataset"
            )
