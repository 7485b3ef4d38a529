"""The one door for settings: Flower's flat run config in, checked and frozen `Settings` out."""

import difflib
import math
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any, cast

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fedmoe.errors import SettingsError, nearest_hint
from fedmoe.settings.rules import check_rules
from fedmoe.settings.schema import Settings

__all__ = ["from_flat", "leaves", "to_flat"]

Scalar = bool | int | float | str
TABLES = ("strategy", "gate", "experts")  # of arguments: TABLE.NAME.ARGUMENT


def leaves(cls: type = Settings, prefix: str = "") -> Iterator[tuple[str, "Field[Any]"]]:
    """Yields (dotted key with dashes, dataclass field) for every setting; plug-ins' arguments are not among them."""
    for item in fields(cls):
        key = prefix + item.name.replace("_", "-")
        if item.default_factory is not MISSING and is_dataclass(item.default_factory):
            yield from leaves(cast(type, item.default_factory), key + ".")
        elif item.name != "arguments":
            yield key, item


def from_flat(flat: Mapping[str, Scalar]) -> Settings:
    """Returns the settings that a flat table such as Flower's run config asks for; defaults fill what it leaves out.

    Args:
        flat: `{"clients.per-round": 10, "strategy.fedprox.mu": 0.01, ...}`. A key `strategy.NAME.ARGUMENT` is an
            argument of the strategy NAME, `gate.NAME.ARGUMENT` of a gate, `experts.NAME.ARGUMENT` of a backbone; dashes
            in it may be underscores.

    Raises:
        SettingsError: an unknown key, a wrong type, a value out of range, or settings that contradict each other.
    """
    schema = dict(leaves())
    nested: dict[str, Any] = {}
    arguments: dict[str, dict[str, dict[str, Scalar]]] = {table: {} for table in TABLES}
    for key, value in flat.items():
        parts = key.replace("_", "-").split(".")
        name = ".".join(parts)
        if name in schema:
            check_value(name, schema[name], value)
            table = nested
            for part in parts[:-1]:
                table = table.setdefault(part.replace("-", "_"), {})
            table[parts[-1].replace("-", "_")] = value
        elif parts[0] in TABLES and len(parts) == 3:
            name, argument = (part.replace("-", "_") for part in parts[1:])
            arguments[parts[0]].setdefault(name, {})[argument] = value
        else:
            raise SettingsError(f"unknown setting '{key}'; {_nearest_key(name, schema)}")
    for kind, by_name in arguments.items():
        nested.setdefault(kind, {})["arguments"] = by_name
    try:
        merged = OmegaConf.merge(OmegaConf.structured(Settings), OmegaConf.create(nested))
        settings = cast(Settings, OmegaConf.to_object(merged))
    except OmegaConfBaseException as error:
        raise SettingsError(f"settings: {str(error).splitlines()[0]}") from error
    check_rules(settings)
    return settings


def to_flat(settings: Settings) -> dict[str, Scalar]:
    """Returns the flat table that `from_flat` turns into the same settings.

    >>> from_flat(to_flat(Settings())) == Settings()
    True
    """
    flat: dict[str, Scalar] = {}
    for key, _ in leaves():
        value: Any = settings
        for part in key.split("."):
            value = getattr(value, part.replace("-", "_"))
        flat[key] = value
    for kind in TABLES:
        for name, table in getattr(settings, kind).arguments.items():
            for argument, value in table.items():
                flat[f"{kind}.{name}.{argument.replace('_', '-')}"] = value
    return flat


def check_value(key: str, item: "Field[Any]", value: Scalar) -> None:
    """Refuses a value of the wrong type or out of the field's range.

    Raises:
        SettingsError: with the rule, the value and its type.
    """
    wanted = type(item.default)
    fits = isinstance(value, wanted) and not (wanted is int and isinstance(value, bool))
    if wanted is float:
        fits = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not fits:
        raise SettingsError(f"{key} must be of type {wanted.__name__}, got {value!r} ({type(value).__name__})")
    low, high, above, below = (item.metadata.get(bound) for bound in ("low", "high", "above", "below"))
    if isinstance(value, float) and not math.isfinite(value):
        raise SettingsError(f"{key} must be a finite number, got {value}")
    if low is not None and cast(float, value) < low:
        raise SettingsError(f"{key} must be at least {low}, got {value}")
    if above is not None and cast(float, value) <= above:
        raise SettingsError(f"{key} must be greater than {above}, got {value}")
    if below is not None and cast(float, value) >= below:
        raise SettingsError(f"{key} must be below {below}, got {value}")
    if high is not None and cast(float, value) > high:
        raise SettingsError(f"{key} must be at most {high}, got {value}")
    choices = item.metadata.get("choices")
    if choices and value not in choices:
        raise SettingsError(f"{key} must be one of these, got '{value}'; {nearest_hint(str(value), choices)}")


def _nearest_key(name: str, schema: Mapping[str, Any]) -> str:
    by_tail = [key for key in schema if key.split(".")[-1] == name.split(".")[-1]]
    close = by_tail or difflib.get_close_matches(name, schema, n=1, cutoff=0.4)
    return f"did you mean '{close[0]}'?" if close else f"tables: {', '.join(sorted({k.split('.')[0] for k in schema}))}"
