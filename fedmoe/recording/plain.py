"""Values as strict JSON: NumPy numbers, paths and tuples made plain, and `null` where a number is not finite."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["json_text", "to_plain"]


def to_plain(value: Any) -> Any:
    """Returns `value` made of dict, list, str, int, float, bool and None alone.

    NaN and the infinities become None: strict JSON has no word for them, and a diverged loss must not end a run.

    >>> to_plain({1: (np.float32(0.5), float("nan")), "where": Path("a/b")})
    {'1': [0.5, None], 'where': 'a/b'}

    Raises:
        TypeError: a value that has no plain form.
    """
    if isinstance(value, (np.generic, np.ndarray)):
        value = value.tolist()
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [to_plain(item) for item in (sorted(value) if isinstance(value, (set, frozenset)) else value)]
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"a record holds text, numbers, lists and tables, got {value!r} ({type(value).__name__})")


def json_text(value: Any, indent: int | None = None) -> str:
    """Returns `value` as strict JSON, its keys in the order in which they were given."""
    return json.dumps(to_plain(value), indent=indent, allow_nan=False, ensure_ascii=False)
