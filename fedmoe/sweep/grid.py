"""A grid of settings from one line of text: `gate.name=mlp,random seed=0..4`."""

import itertools
import json
import re
import tomllib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from fedmoe.errors import SettingsError

__all__ = ["Point", "points_of"]

TOKEN = re.compile(r"""(?P<key>[^\s=]+)=(?P<values>(?:'[^']*'|"[^"]*"|[^\s'"])+)""")
VALUE = re.compile(r"""'[^']*'|"[^"]*"|[^,'"]+""")
RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)")

Value = bool | int | float | str


@dataclass(frozen=True)
class Point:
    """One run of a grid.

    Attributes:
        settings: what it sets, in the order of the grid.
    """

    settings: tuple[tuple[str, Value], ...]

    @property
    def name(self) -> str:
        """Returns a name for its folder, which tells its settings.

        >>> Point((("gate.name", "mlp"), ("seed", 3))).name
        'gate.name=mlp,seed=3'
        """
        words = (f"{key}={value}" for key, value in self.settings)
        return re.sub(r"[^\w.,=+-]+", "-", ",".join(words)) or "default"

    def for_strategies(self, names: Collection[str]) -> "Point":
        """Returns the point without the arguments of strategies other than these.

        >>> Point((("strategy.ditto.strength", 2), ("seed", 3))).for_strategies({"fedavg"}).name
        'seed=3'
        """
        kept = []
        for key, value in self.settings:
            kind, *table, _ = ["", *key.replace("-", "_").split(".")][-3:]
            if kind != "strategy" or table[0] in names:
                kept.append((key, value))
        return Point(tuple(kept))


def points_of(over: Sequence[str]) -> list[Point]:
    """Returns every combination of the values, the last key's changing fastest.

    Args:
        over: lines of `key=value,value ...`; a value is read as in TOML where it can be, else it is text; `0..4` stands
            for 0, 1, 2, 3 and 4. A value with commas or spaces in it stands in quotes.

    Raises:
        SettingsError: a line cannot be read, a key is there twice, or two points have the same name.

    >>> [point.name for point in points_of(["gate.name=mlp,random seed=0..1"])]
    ['gate.name=mlp,seed=0', 'gate.name=mlp,seed=1', 'gate.name=random,seed=0', 'gate.name=random,seed=1']
    """
    axes: dict[str, list[Value]] = {}
    for line in over:
        if rest := TOKEN.sub("", line).strip():
            raise SettingsError(f"--over must be \"key=value,value ...\", got '{rest}' in it")
        for token in TOKEN.finditer(line):
            if token["key"] in axes:
                raise SettingsError(f"each key of --over must be there once, got '{token['key']}' twice")
            axes[token["key"]] = [value for text in VALUE.findall(token["values"]) for value in _values(text)]
    points = [Point(tuple(zip(axes, values, strict=True))) for values in itertools.product(*axes.values())]
    names = [point.name for point in points]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise SettingsError(f"each run of a sweep must be there once, got '{twice}' twice")
    return points


def to_toml(settings: dict[str, Value]) -> str:
    """Returns flat settings as the text of a TOML file, which Flower's `--run-config` takes too."""
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items())


def _values(text: str) -> list[Value]:
    if found := RANGE.fullmatch(text):
        first, last = int(found[1]), int(found[2])
        if last < first:
            raise SettingsError(f"a range of --over must go upwards, got '{text}'")
        return list(range(first, last + 1))
    try:
        value: Any = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return [text]
    return [value] if isinstance(value, (bool, int, float, str)) else [text]
