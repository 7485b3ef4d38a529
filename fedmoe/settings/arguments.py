"""A plug-in's own settings: the keyword arguments of its class, from the table that bears its name."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from fedmoe.errors import SettingsError, nearest_hint

__all__ = ["check_type", "keyword_arguments"]


def keyword_arguments(table: str, make: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `given`, checked against the keyword-only arguments of a class or function.

    >>> def gate(spec, *, temperature=1.0): ...
    >>> keyword_arguments("gate.cosine", gate, {"temperature": 2})
    {'temperature': 2}

    Args:
        table: its name in the settings, for messages.
        make: what takes the arguments.
        given: argument -> value.

    Raises:
        SettingsError: there is no such argument, or its value is not of the default's type.
    """
    if not given:
        return {}
    parameters = inspect.signature(make).parameters.values()
    known = {own.name: own.default for own in parameters if own.kind is own.KEYWORD_ONLY}
    for name, value in given.items():
        if name not in known:
            hint = nearest_hint(name, known) if known else "it has none"
            raise SettingsError(f"{table} has no argument '{name}'; {hint}")
        check_type(f"{table}.{name.replace('_', '-')}", type(known[name]), value)
    return dict(given)


def check_type(key: str, wanted: type, value: Any) -> None:
    """Refuses a value that is not of the type; where a float is wanted, a whole number is one too.

    Raises:
        SettingsError: with key, type and value.
    """
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    fits = number if wanted is float else isinstance(value, wanted) and (wanted is bool or not isinstance(value, bool))
    if wanted in (bool, int, float, str) and not fits:
        raise SettingsError(f"{key} must be of type {wanted.__name__}, got {value!r} ({type(value).__name__})")
