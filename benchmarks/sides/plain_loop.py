"""A plain torch loop over clients, as a reader would write it: one network, copied into, trained, added up."""

from collections.abc import Iterator

import torch
from torch import Tensor

from benchmarks.networks import build_gate, build_network
from benchmarks.sides import Rounds, Serve
from benchmarks.sides.client_data import client_tensors
from benchmarks.sides.epoch import flat, one_epoch
from benchmarks.sides.fedjets_client import FedJETsClient, State, averaged, best_experts, copied
from benchmarks.workloads import Work

__all__ = ["averaging", "fedjets", "run"]


def run(work: Work, threads: int, serve: Serve) -> None:
    """Serves rounds of federated averaging, or FedJETs rounds, with `threads` torch threads."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    serve(fedjets(work) if work.is_mixture else averaging(work))


def averaging(work: Work) -> Rounds:
    """Returns federated averaging, each client weighted by its samples."""
    clients = client_tensors(work)
    network = build_network(work)
    server = {name: value.clone() for name, value in network.state_dict().items()}
    total = sum(len(y) for _, y in clients)

    def train() -> int:
        added = {name: torch.zeros_like(value) for name, value in server.items()}
        for x, y in clients:
            network.load_state_dict(server)
            optimiser = torch.optim.SGD(network.parameters(), lr=work.learning_rate, momentum=work.momentum)
            one_epoch(network, optimiser, x, y, work.batch_size)
            for name, value in network.state_dict().items():
                added[name] += value * (len(y) / total)
        server.update(added)
        return total

    return Rounds(train, lambda: flat(server.values()))


def fedjets(work: Work) -> Rounds:
    """Returns FedJETs rounds: each client embeds its samples, and each part is averaged over those who trained it."""
    clients = [FedJETsClient(work, x, y) for x, y in client_tensors(work)]
    gate = copied(build_gate(work, build_network(work).width))
    experts = [copied(build_network(work)) for _ in range(work.experts)]

    def train() -> int:
        gates: list[State] = []
        trained: list[list[State]] = [[] for _ in experts]
        for number, client in enumerate(clients):
            anchor = number < work.experts
            held = (number,) if anchor else best_experts(client.ranking(gate), work.top_k)
            update = client.train({expert: experts[expert] for expert in held}, gate, anchor=anchor)
            gates.append(update.gate)
            for expert, weights in update.experts.items():
                trained[expert].append(weights)
        gate.update(averaged(gates))
        for expert, given in enumerate(trained):
            if given:
                experts[expert] = averaged(given)
        return sum(len(client.y) for client in clients)

    def parts() -> Iterator[Tensor]:
        for part in (gate, *experts):
            yield from part.values()

    return Rounds(train, lambda: flat(parts()))
