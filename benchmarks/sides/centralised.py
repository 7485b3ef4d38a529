"""The floor: the same samples in one training loop with the same batch size, and nobody to average with."""

import torch

from benchmarks.networks import build_network
from benchmarks.sides import Rounds, Serve
from benchmarks.sides.centralised_mixture import CentralisedMixture
from benchmarks.sides.client_data import client_tensors
from benchmarks.sides.epoch import flat, one_epoch
from benchmarks.workloads import Work

__all__ = ["run"]

LAYOUTS = {"channels-last": torch.channels_last, "contiguous": torch.contiguous_format}


def run(work: Work, threads: int, serve: Serve, *, layout: str) -> None:
    """Serves epochs over all clients' samples put together, of one network or of a mixture.

    Args:
        work: what is done; its precision is our side's.
        threads: torch threads.
        serve: is called once all is ready.
        layout: `channels-last` or `contiguous`, of images and of the network's weights.
    """
    torch.set_num_threads(threads)
    if work.is_mixture:
        serve(CentralisedMixture(work, LAYOUTS[layout]).rounds())
        return
    clients = client_tensors(work)
    x, y = torch.cat([x for x, _ in clients]), torch.cat([y for _, y in clients])
    network = build_network(work).to(memory_format=LAYOUTS[layout])
    optimiser = torch.optim.SGD(network.parameters(), lr=work.learning_rate, momentum=work.momentum)
    bf16 = work.precision == "bf16"

    def train() -> int:
        one_epoch(network, optimiser, x, y, work.batch_size, layout=LAYOUTS[layout], bf16=bf16)
        return len(y)

    serve(Rounds(train, lambda: flat(network.parameters())))
