"""The floor: the same samples in one training loop with the same batch size, and nobody to average with."""

import torch

from benchmarks.networks import build_network
from benchmarks.sides import Rounds, Serve
from benchmarks.sides.client_data import client_tensors
from benchmarks.sides.epoch import flat, one_epoch
from benchmarks.workloads import Work

__all__ = ["run"]


def run(work: Work, threads: int, serve: Serve, *, layout: str) -> None:
    """Serves epochs over all clients' samples put together.

    Args:
        work: what is done; its precision is our side's.
        threads: torch threads.
        serve: is called once all is ready.
        layout: `channels-last` or `contiguous`, of images and of the network's weights.
    """
    torch.set_num_threads(threads)
    clients = client_tensors(work)
    x, y = torch.cat([x for x, _ in clients]), torch.cat([y for _, y in clients])
    wanted = torch.channels_last if layout == "channels-last" else torch.contiguous_format
    network = build_network(work).to(memory_format=wanted)
    optimiser = torch.optim.SGD(network.parameters(), lr=work.learning_rate, momentum=work.momentum)
    bf16 = work.precision == "bf16"

    def train() -> int:
        one_epoch(network, optimiser, x, y, work.batch_size, layout=wanted, bf16=bf16)
        return len(y)

    serve(Rounds(train, lambda: flat(network.parameters())))
