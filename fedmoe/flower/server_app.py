"""The ServerApp: settings checked, data prepared, the strategy and its baselines trained, everything recorded."""

import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedmoe.errors import FedmoeError, RunFolderError, SettingsError
from fedmoe.flower.devices import choose_device, idle_core_hint, idle_gpu_hint, set_up_torch
from fedmoe.flower.methods import Method, methods_of, starts_of, tables_of, unused_tables, works_over
from fedmoe.flower.plugin_check import check_plugins
from fedmoe.flower.preparation import Preparation, prepare_run
from fedmoe.flower.results import (
    client_table,
    common_cold_start,
    common_results,
    header_table,
    partition_table,
    summary_table,
)
from fedmoe.flower.roster import Roster, call_roster
from fedmoe.flower.running import ledger_of, rounds_done, run_method
from fedmoe.flower.strategy import ExpertStrategy
from fedmoe.recording.console import ConsoleLogger
from fedmoe.recording.environment import describe_environment
from fedmoe.recording.loggers import RunLogger
from fedmoe.recording.report import write_report
from fedmoe.recording.run_folder import (
    DEFAULT_OUTPUT,
    RunFolder,
    check_same_settings,
    create_run_folder,
    open_run_folder,
)
from fedmoe.recording.run_lock import only_writer
from fedmoe.recording.tensorboard import TensorBoardLogger
from fedmoe.recording.wording import starts_apart
from fedmoe.references import file_hashes
from fedmoe.settings import Settings, from_flat, to_flat

__all__ = ["app", "run"]

STALE = 0.2  # share of the first round's model in a moving average from which on it is told

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Runs the simulation that the app's config describes."""
    try:
        run(grid, context.run_config)
    except FedmoeError as error:
        if threading.current_thread() is not threading.main_thread():
            # Flower's engine logs what its server thread raises: one line then, not the way that led to it
            sys.tracebacklimit = 0
        raise type(error)(str(error)) from None


def run(grid: Grid, run_config: Mapping[str, Any]) -> Path:
    """Runs the simulation and returns its run folder.

    Raises:
        FedmoeError: what went wrong, in one line; nothing was started when a setting is at fault.
    """
    started = time.perf_counter()
    settings = from_flat(run_config)
    check_plugins(settings)
    methods = methods_of(settings)
    sources = file_hashes(to_flat(settings).values())  # as they were loaded just now
    set_up_torch(settings.common_expert.threads, settings.deterministic)
    old = _old_folder(settings)
    console = ConsoleLogger()
    preparation = prepare_run(settings, choose_device(settings.train.device, None), console.tell)
    set_up_torch(settings.train.threads, settings.deterministic)  # as in the nodes, for what the server evaluates
    roster = call_roster(grid)
    folder = old or create_run_folder(output_folder(settings), settings.simulation, methods[0].name, settings.seed)
    header = _header(folder, methods, preparation, roster)
    with only_writer(folder.path) as warnings:
        header["notes"] += warnings
        if old is not None:
            _check_same_data(old, header)
            header["notes"] += changed_note(old, settings)
        else:
            _write_beginnings(folder, preparation, header, roster, sources)
        _train_and_test(folder, methods, preparation, grid, header, console, started)
    return folder.path


def _header(folder: RunFolder, methods: Sequence[Method], preparation: Preparation, roster: Roster) -> dict[str, Any]:
    """Returns what is told at the start of a run, notes on its settings included."""
    settings, main = preparation.settings, methods[0].strategy
    header = header_table(
        preparation,
        [method.name for method in methods],
        str(folder.path),
        ", ".join(sorted(set(roster.devices))),
        main.pool_size(settings) if isinstance(main, ExpertStrategy) else 1,
        (main.gate or settings.gate.name) if isinstance(main, ExpertStrategy) and main.has_gate else "none",
    )
    header["notes"] += [
        *_hints(roster, settings),
        *_vote_note(settings),
        *_average_note(settings),
        *_drift_note(settings),
    ]
    header["starts"] = starts_of(settings, methods)
    header["notes"] += [
        *works_over(methods),
        *starts_apart(header["starts"].items()),
        *unused_tables(settings, methods),
    ]
    header["tables"] = {method.name: tables_of(method) for method in methods}
    return header


def _train_and_test(
    folder: RunFolder,
    methods: Sequence[Method],
    preparation: Preparation,
    grid: Grid,
    header: Mapping[str, Any],
    console: ConsoleLogger,
    started: float,
) -> None:
    """Runs the rounds that are left of each method, and writes what came out."""
    settings = preparation.settings
    done = {method.name: rounds_done(method, folder) for method in methods}
    loggers: list[RunLogger] = [console, TensorBoardLogger(folder.path, done)]
    for logger in loggers:
        logger.start(header)
    outcomes = {method.name: run_method(method, preparation, folder, grid, loggers) for method in methods}
    latest = preparation.at(settings.num_server_rounds)
    common, cold = common_results(latest), common_cold_start(latest)
    once = {m.name: ledger_of(m.strategy, preparation).once(settings.clients.num) for m in methods}
    before = sum(sum(outcomes[name].seconds[:rounds]) for name, rounds in done.items())
    summary = summary_table(header, outcomes, common, cold, once, time.perf_counter() - started + before)
    folder.write_clients(*client_table(latest, outcomes, common))
    folder.write_summary(summary)
    write_report(folder.path)
    for logger in loggers:
        logger.end(summary)


def _write_beginnings(
    folder: RunFolder, preparation: Preparation, header: Mapping[str, Any], roster: Roster, sources: Mapping[str, str]
) -> None:
    """Writes what is known before the first round; a resumed run keeps what it began with."""
    folder.write_partition(partition_table(preparation))
    facts = {"nodes": len(roster.node_ids), "devices": list(roster.devices), "sources": dict(sources)}
    same = {name: header[name] for name in ("dataset", "partition", "common_expert")}
    folder.write_environment(describe_environment(facts | same))
    # last, and written whole: a folder without it cannot be gone on with, so that one with it has all of the above
    folder.write_settings(preparation.settings)


def changed_note(old: RunFolder, settings: Settings) -> list[str]:
    """Returns a sentence for each file named in the settings that is another one than when the run began."""
    begun = (old.read_json("environment.json") or {}).get("sources", {})
    now = file_hashes(to_flat(settings).values())
    changed = [reference for reference, digest in begun.items() if now.get(reference) != digest]
    return [f"{reference} has changed since this run began: its rounds are of both versions" for reference in changed]


def output_folder(settings: Settings) -> Path:
    """Returns the folder that gets the run folder, absolute.

    Raises:
        SettingsError: `output-dir` is a relative path.
    """
    output = Path(settings.output_dir or DEFAULT_OUTPUT).expanduser()
    if not output.is_absolute():
        raise SettingsError(
            f"output-dir must be an absolute path, got '{settings.output_dir}': under `flwr run` the working directory "
            "is the SuperLink's, not yours"
        )
    return output


def _drift_note(settings: Settings) -> list[str]:
    clients = settings.clients
    if not clients.drift_round:
        return []
    what = "labels" if clients.drift == "labels" else f"look ({clients.drift})"
    return [f"from round {clients.drift_round} on the {what} of group {clients.drift_group} are others"]


def _vote_note(settings: Settings) -> list[str]:
    share = settings.evaluate.common_vote
    return [f"The common expert has a vote of {share:.0%} in every prediction of every method."] if share else []


def _average_note(settings: Settings) -> list[str]:
    """Returns a sentence where the moving average that is tested is still much of what the first round left."""
    decay, rounds = settings.evaluate.ema, settings.num_server_rounds
    left = decay ** (rounds - 1) if decay and rounds > 1 else 0.0
    if left <= STALE:
        return []
    text = (
        f"evaluate.ema={decay:g}: after {rounds} rounds the average that is tested is still {left:.0%} the model of "
        "the first round; more rounds, or evaluate.ema=0.0, test what was trained"
    )
    return [text]


def _hints(roster: Roster, settings: Settings) -> list[str]:
    """Returns what to type where cores or GPUs stand idle."""
    nodes = len(roster.node_ids)
    hints = (
        idle_gpu_hint(nodes, list(roster.devices)),
        idle_core_hint(nodes, roster.cores, roster.cpus, roster.busy),
    )
    return [hint for hint in hints if hint]


def _check_same_data(folder: RunFolder, header: Mapping[str, Any]) -> None:
    """Refuses to go on with a run on other data than it began with (a stand-in that has since become real, say)."""
    begun = folder.read_json("environment.json") or {}
    for name, key in (("dataset", "fingerprint"), ("partition", "hash"), ("common_expert", "fingerprint")):
        old, new = begun.get(name, {}).get(key), header[name][key]
        if old is not None and old != new:
            raise RunFolderError(
                f"a run must go on with the {name} that it began with ({old[:12]}), got {new[:12]}; "
                "hint: same data.root, and fedmoe of the same version, or start a new run"
            )


def _old_folder(settings: Settings) -> RunFolder | None:
    """Returns the run folder to go on with, or `None` for a new run; it must be of the same settings."""
    output_folder(settings)
    if not settings.resume:
        return None
    path = Path(settings.resume).expanduser()
    if not path.is_absolute():
        raise RunFolderError(f"resume must be the absolute path of a run folder, got '{settings.resume}'")
    folder = open_run_folder(path)
    check_same_settings(folder, settings)
    return folder
