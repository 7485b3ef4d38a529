"""The ServerApp: settings checked, data prepared, the strategy and its baselines trained, everything recorded."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedmoe.errors import FedmoeError, RunFolderError, SettingsError
from fedmoe.flower.devices import choose_device, idle_core_hint, idle_gpu_hint, set_up_torch
from fedmoe.flower.methods import ledger_of, methods_of, run_method
from fedmoe.flower.preparation import check_plugins, prepare_run
from fedmoe.flower.results import client_rows, common_results, header_table, partition_table, summary_table
from fedmoe.flower.roster import call_roster
from fedmoe.recording.console import ConsoleLogger
from fedmoe.recording.environment import describe_environment
from fedmoe.recording.loggers import RunLogger
from fedmoe.recording.report import write_report
from fedmoe.recording.run_folder import RunFolder, check_same_settings, create_run_folder, open_run_folder
from fedmoe.recording.tensorboard import TensorBoardLogger
from fedmoe.settings import Settings, from_flat

__all__ = ["app", "run"]

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Runs the simulation that the app's config describes."""
    try:
        run(grid, context.run_config)
    except FedmoeError as error:
        raise type(error)(str(error)) from None  # one line, not the way that led to it


def run(grid: Grid, run_config: Mapping[str, Any]) -> Path:
    """Runs the simulation and returns its run folder.

    Raises:
        FedmoeError: what went wrong, in one line; nothing was started when a setting is at fault.
    """
    started = time.perf_counter()
    settings = from_flat(run_config)
    check_plugins(settings)
    methods = methods_of(settings)
    set_up_torch(settings.train.threads, settings.deterministic)
    folder = _old_folder(settings)
    preparation = prepare_run(settings, choose_device(settings.train.device, None))
    roster = call_roster(grid)
    if folder is None:
        output = Path(settings.output_dir or "~/fedmoe-runs").expanduser()
        folder = create_run_folder(output, settings.simulation, methods[0].name, settings.seed)
        folder.write_settings(settings)
    folder.write_partition(partition_table(preparation))
    header = header_table(
        preparation, [m.name for m in methods], str(folder.path), ", ".join(sorted(set(roster.devices)))
    )
    nodes = len(roster.node_ids)
    hints = (
        idle_gpu_hint(nodes, list(roster.devices)),
        idle_core_hint(nodes, roster.cores, roster.cpus, settings.train.threads),
    )
    header["notes"] += [hint for hint in hints if hint]
    facts: dict[str, Any] = {
        "dataset": header["dataset"],
        "data_fingerprint": preparation.data.fingerprint,
        "partition_hash": header["partition"]["hash"],
    }
    folder.write_environment(describe_environment(facts | {"nodes": nodes, "devices": list(roster.devices)}))
    loggers: list[RunLogger] = [ConsoleLogger(), TensorBoardLogger(folder.path)]
    for logger in loggers:
        logger.start(header)
    lines = {method.name: run_method(method, preparation, folder, grid, loggers) for method in methods}
    common = common_results(preparation)
    once = {m.name: ledger_of(m.strategy, preparation).once(settings.clients.num) for m in methods}
    summary = summary_table(header, lines, common, once, time.perf_counter() - started)
    folder.write_clients(client_rows(preparation, lines, common))
    folder.write_summary(summary)
    write_report(folder.path)
    for logger in loggers:
        logger.end(summary)
    return folder.path


def _old_folder(settings: Settings) -> RunFolder | None:
    """Returns the run folder to go on with, or `None` for a new run; it must be of the same settings."""
    output = Path(settings.output_dir).expanduser()
    if settings.output_dir and not output.is_absolute():
        raise SettingsError(
            f"output-dir must be an absolute path, got '{settings.output_dir}': under `flwr run` the working directory "
            "is the SuperLink's, not yours"
        )
    if not settings.resume:
        return None
    path = Path(settings.resume).expanduser()
    if not path.is_absolute():
        raise RunFolderError(f"resume must be the absolute path of a run folder, got '{settings.resume}'")
    folder = open_run_folder(path)
    check_same_settings(folder, settings)
    return folder
