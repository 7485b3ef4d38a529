"""The methods of a run: the strategy and the baselines by their names, each built with its own arguments."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass

from flwr.serverapp.strategy import Strategy

from fedmoe.errors import SettingsError, nearest_hint
from fedmoe.flower.preparation import can_start_from
from fedmoe.flower.strategy import ExpertStrategy
from fedmoe.flower.wrapper import Wrapper
from fedmoe.moe.construction import common_backbone, gate_class, stands_on_common
from fedmoe.references import known_names, load_plugin, short_name
from fedmoe.settings import Settings
from fedmoe.settings.arguments import check_type

__all__ = ["Method", "build_strategy", "methods_of", "starts_of", "tables_of", "unused_tables", "works_over"]


@dataclass(frozen=True)
class Method:
    """A method of a run.

    Attributes:
        name: as it is printed: the strategy's short name, or its class's name.
        strategy: not yet bound.
        is_main: whether it is what the run is about, rather than a baseline.
    """

    name: str
    strategy: Strategy
    is_main: bool


def methods_of(settings: Settings) -> list[Method]:
    """Returns the run's methods: the strategy, then the baselines; their arguments are checked.

    Raises:
        SettingsError: an unknown strategy or argument, settings that a strategy cannot work with, or a baseline twice.
    """
    baselines = [name.strip() for name in settings.evaluate.baselines.split(",") if name.strip()]
    main = settings.strategy.name
    # It is no baseline of itself, so that a sweep over methods can leave the baselines alone.
    references = [main, *(name for name in baselines if name.replace("-", "_") != main.replace("-", "_"))]
    methods = [
        Method(short_name(reference, "strategies"), build_strategy(reference, settings), is_main=index == 0)
        for index, reference in enumerate(references)
    ]
    names = [method.name for method in methods]
    for name in names:
        if names.count(name) > 1:
            raise SettingsError(
                f"each method must be there once, got '{name}' {names.count(name)} times: see "
                "strategy.name and evaluate.baselines"
            )
    for method in methods:
        _check_init(method, settings)
        _check_gate(method, settings)
        _check_drift(method, settings)
        if isinstance(method.strategy, ExpertStrategy):
            method.strategy.check(settings)
    unused_tables(settings, methods)
    return methods


def unused_tables(settings: Settings, methods: Sequence[Method]) -> list[str]:
    """Returns a note for each table of strategy arguments that no method of this run, nor any built-in one, answers to.

    It may belong to a strategy of one's own that this run leaves out.

    Raises:
        SettingsError: its name looks like a known one's, misspelt.
    """
    known = {name for method in methods for name in tables_of(method)} | set(known_names("strategies"))
    unused = [table for table in sorted(settings.strategy.arguments) if table not in known]
    for table in unused:
        if difflib.get_close_matches(table, known, n=1, cutoff=0.75):
            raise SettingsError(f"unknown strategy '{table}'; {nearest_hint(table, known)}")
    return [f"the settings table strategy.{table} is used by no method of this run" for table in unused]


def works_over(methods: Sequence[Method]) -> list[str]:
    """Returns a note for each method that works over another one, down to what it rests on."""
    paths = (tables_of(method) for method in methods)
    return [f"{path[0]} works over {', over '.join(path[1:])}" for path in paths if len(path) > 1]


def starts_of(settings: Settings, methods: Sequence[Method]) -> dict[str, str]:
    """Returns what each method's experts start from: `"random"` weights or the `"common"` expert."""
    if stands_on_common(settings.experts.model):  # whatever the settings say, until they are trained
        return {method.name: "common" for method in methods}
    own = ((m.name, m.strategy.init if isinstance(m.strategy, ExpertStrategy) else "") for m in methods)
    return {name: init or settings.experts.init for name, init in own}


def tables_of(method: Method) -> list[str]:
    """Returns the names of the method and of what it works over: the tables `strategy.NAME` that count for it."""
    names, strategy = [method.name], method.strategy
    while isinstance(strategy, Wrapper):
        names.append(short_name(strategy.over, "strategies"))
        strategy = strategy.inner
    return names


def _check_init(method: Method, settings: Settings) -> None:
    if not isinstance(method.strategy, ExpertStrategy):
        return
    common, model = settings.common_expert, settings.experts.model
    other = common.source if common.source.startswith("torchvision:") else common_backbone(settings)
    if (method.strategy.init or settings.experts.init) == "common" and not can_start_from(other, model):
        raise SettingsError(
            f"{method.name} starts from the common expert, so both must have one backbone: experts.model is '{model}', "
            f"the common expert is '{other}'; hint: strategy.{method.name}.init='random', or equal models"
        )
    if method.strategy.init not in ("", "random", "common"):
        raise SettingsError(
            f"strategy.{method.name}.init must be 'random', 'common' or '', got '{method.strategy.init}'"
        )


def build_strategy(reference: str, settings: Settings, path: tuple[str, ...] = ()) -> Strategy:
    """Returns the strategy, with the arguments of its table `strategy.NAME` in the settings.

    Args:
        reference: which one.
        settings: of the run.
        path: the names of the wrappers that work over it, the outermost first.

    Raises:
        SettingsError: it is unknown, is no Flower strategy, or does not take these arguments.
    """
    make = load_plugin("strategy", "strategies", reference)
    if not (isinstance(make, type) and issubclass(make, Strategy)):
        raise SettingsError(
            f"strategy '{reference}' must be a subclass of flwr.serverapp.strategy.Strategy, got {make!r}"
        )
    name_of_table = short_name(reference, "strategies")
    arguments = settings.strategy.arguments.get(name_of_table, {})
    if is_dataclass(make):
        known = {item.name: item for item in fields(make)}
        for name, value in arguments.items():
            if name not in known:
                raise SettingsError(f"strategy.{name_of_table} has no argument '{name}'; {nearest_hint(name, known)}")
            check_type(f"strategy.{name_of_table}.{name}", type(known[name].default), value)
    try:
        strategy: Strategy = make(**arguments)
        if isinstance(strategy, Wrapper):
            _settle(strategy, settings, (*path, name_of_table))
    except SettingsError as error:  # a strategy that builds on another is refused in its own name
        own = f"strategy.{name_of_table}"
        raise error if own in str(error) else SettingsError(f"{own}: {error}") from error
    except TypeError as error:
        raise SettingsError(f"strategy '{reference}' does not take {arguments}: {error}") from error
    return strategy


def _settle(wrapper: Wrapper, settings: Settings, path: tuple[str, ...]) -> None:
    """Has the wrapper build what it works over, in which nothing of the `path` down to it may come again."""

    def build(over: str, settings: Settings) -> Strategy:
        name = short_name(over, "strategies")
        if name in path:
            raise SettingsError(f"it must work over another strategy, got '{' over '.join([*path, name])}'")
        return build_strategy(over, settings, path)

    wrapper.settle(settings, build)


def _check_drift(method: Method, settings: Settings) -> None:
    """Refuses a plain Flower strategy where data drifts: its clients are told of one state of the data."""
    if settings.clients.drift_round and not isinstance(method.strategy, ExpertStrategy):
        raise SettingsError(
            f"data drifts for strategies of experts alone, got clients.drift-round={settings.clients.drift_round} and "
            f"the plain Flower strategy {method.name}; hint: clients.drift-round=0"
        )


def _check_gate(method: Method, settings: Settings) -> None:
    """Refuses a gate that somebody else's strategy sets: nobody would."""
    strategy = method.strategy
    if not isinstance(strategy, ExpertStrategy) or not strategy.has_gate or strategy.gate:
        return
    if gate_class(settings.gate.name).set_by_strategy:
        raise SettingsError(
            f"gate.name must be a gate that {method.name} trains, got '{settings.gate.name}', whose weights come from "
            "the strategy that brings it; hint: gate.name='mlp'"
        )
