"""Flower as its users run it: a client a SuperNode, on its Ray engine, one core for each client that works.

Two threads of a single-process side are two actors here, with one torch thread each. Rounds are Flower's own:
`send_and_receive` looks for replies every 0.1 s, and its engine for new messages every 0.1 s.
"""

from dataclasses import replace

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from flwr.simulation import run_simulation

from benchmarks.sides import Serve, flower_averaging, flower_fedjets
from benchmarks.workloads import Work

__all__ = ["run"]


def run(work: Work, threads: int, serve: Serve) -> None:
    """Serves Flower's rounds of the work, on `threads` actors; the engine is ended when `serve` returns."""
    style = flower_fedjets if work.is_mixture else flower_averaging
    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        facts = {"actors": threads, "torch_threads": 1}  # of an actor: this process's own torch has nothing to do
        serve(replace(style.rounds(work, grid), facts=facts))

    run_simulation(
        server_app=server,
        client_app=style.app,
        num_supernodes=work.clients,
        backend_config={
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
            # an engine of its own, whatever else runs on this machine
            "init_args": {"num_cpus": threads, "num_gpus": 0, "address": "local"},
        },
    )
