"""Each sample's image goes through the transform of its domain (feature shift), its label too (concept shift)."""

import hashlib
import inspect
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedmoe.data.content_cache import PreparedData, keep, open_prepared
from fedmoe.errors import DataError
from fedmoe.references import load_plugin

__all__ = ["Transform", "apply_domains"]

Transform = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
ROWS = 4096


def apply_domains(
    prepared: PreparedData,
    domain_N: NDArray[np.int64],
    domains: tuple[str, ...],
    meanings_GC: NDArray[np.int64] | None = None,
) -> PreparedData:
    """Returns the data with every image as it looks, and every label as it is called, in its sample's domain.

    Cached like the data itself. Its fingerprint hangs on the content before, the domains of all samples, the
    transforms' names and source, and the meanings.

    Args:
        prepared: the data as it was loaded.
        domain_N: domain of each sample by id, in [0, number of domains).
        domains: a transform for each domain: a short name or `"module:Attribute"`; uint8 NCHW in, uint8 NCHW of equal
            shape out, each image for itself.
        meanings_GC: what each domain calls each label, shape (domains, classes); `None`: labels stay.

    Raises:
        ReferenceError_: there is no such transform.
        DataError: the domains do not fit the samples, or a transform gives another shape or type.
    """
    transforms = [load_plugin("transform", "fedmoe.data.transforms", domain) for domain in domains]
    num = len(prepared.dataset.y_N)
    fits = domain_N.shape == (num,) and int(domain_N.min()) >= 0 and int(domain_N.max()) < len(domains)
    if not fits:
        raise DataError(
            f"there must be one domain in [0, {len(domains)}) for each of {num} samples; "
            f"got {domain_N.dtype}{list(domain_N.shape)}; hint: each sample's index into ({', '.join(domains)})"
        )
    fingerprint = _fingerprint(prepared, domain_N, domains, transforms, meanings_GC)
    try:
        shifted = open_prepared(fingerprint)
    except DataError:
        x_NCHW = _transformed(prepared.dataset.x_NCHW, domain_N, domains, transforms)
        y_N = prepared.dataset.y_N if meanings_GC is None else meanings_GC[domain_N, prepared.dataset.y_N]
        shifted = keep(replace(prepared.dataset, x_NCHW=x_NCHW, y_N=y_N), fingerprint)
    return replace(shifted, stand_in_for=prepared.stand_in_for)


def _transformed(
    x_NCHW: NDArray[np.uint8],
    domain_N: NDArray[np.int64],
    domains: tuple[str, ...],
    transforms: list[Transform],
) -> NDArray[np.uint8]:
    out = np.empty(x_NCHW.shape, dtype=np.uint8)
    for index, (name, transform) in enumerate(zip(domains, transforms, strict=True)):
        ids = np.flatnonzero(domain_N == index)
        for start in range(0, len(ids), ROWS):
            rows = ids[start : start + ROWS]
            before = x_NCHW[rows]
            after = transform(before)
            if after.shape != before.shape or after.dtype != np.uint8:
                raise DataError(
                    f"transform '{name}' must give uint8 images of equal shape; {list(before.shape)} became "
                    f"{after.dtype}{list(after.shape)}; hint: a quarter turn needs square images"
                )
            out[rows] = after
    return out


def _fingerprint(
    prepared: PreparedData,
    domain_N: NDArray[np.int64],
    domains: tuple[str, ...],
    transforms: list[Transform],
    meanings_GC: NDArray[np.int64] | None,
) -> str:
    digest = hashlib.sha256(json.dumps([prepared.fingerprint, domains]).encode())
    digest.update(np.ascontiguousarray(domain_N, dtype=np.int64).data)
    if meanings_GC is not None:
        digest.update(np.ascontiguousarray(meanings_GC, dtype=np.int64).data)
    for transform in transforms:
        # The source too: a transform that its author has edited must not find yesterday's images.
        digest.update(_source(transform))
    return digest.hexdigest()


def _source(transform: Transform) -> bytes:
    try:
        return Path(inspect.getfile(transform)).read_bytes()
    except (TypeError, OSError):  # a callable object, or a builtin
        return repr(type(transform)).encode()
