"""Federated averaging by Flower's own FedAvg, with a plain torch loop in the ClientApp."""

from functools import lru_cache
from typing import cast

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from torch import Tensor

from benchmarks.networks import Network, build_network
from benchmarks.sides import Rounds
from benchmarks.sides.client_data import client_tensors
from benchmarks.sides.epoch import flat, one_epoch
from benchmarks.workloads import Work, work_named

__all__ = ["app", "examples_in", "rounds"]

PATIENCE = 600.0  # seconds for a round, after which something has died

app = ClientApp()


def rounds(work: Work, grid: Grid) -> Rounds:
    """Returns Flower's rounds: all clients train in each, none is evaluated."""
    # of as many as have registered, were there no least number
    strategy = FedAvg(
        fraction_train=1.0, fraction_evaluate=0.0, min_train_nodes=work.clients, min_available_nodes=work.clients
    )
    torch.manual_seed(0)
    arrays = ArrayRecord(build_network(work).state_dict())
    round_num = 0

    def train() -> int:
        nonlocal round_num, arrays
        round_num += 1
        config = ConfigRecord({"work": work.name, "toy": work.toy})
        orders = strategy.configure_train(round_num, arrays, config, grid)
        replies = list(grid.send_and_receive(orders, timeout=PATIENCE))
        merged, _ = strategy.aggregate_train(round_num, replies)
        if merged is None:
            raise RuntimeError(f"round {round_num}: Flower's clients must answer within {PATIENCE:.0f} s, none did")
        arrays = merged
        return sum(examples_in(reply.content) for reply in replies if reply.has_content())

    return Rounds(train, lambda: flat(arrays.to_torch_state_dict().values()))


def examples_in(content: RecordDict) -> int:
    """Returns how many samples a client says that it trained on."""
    return cast(int, cast(MetricRecord, content["metrics"])["num-examples"])


@app.train()
def train(message: Message, context: Context) -> Message:
    """Replies the client's weights after one epoch."""
    config = message.content["config"]
    work, clients, network = resident(str(config["work"]), bool(config["toy"]))
    x, y = clients[int(context.node_config["partition-id"])]
    network.load_state_dict(message.content["arrays"].to_torch_state_dict())  # type: ignore[union-attr]
    optimiser = torch.optim.SGD(network.parameters(), lr=work.learning_rate, momentum=work.momentum)
    loss = one_epoch(network, optimiser, x, y, work.batch_size)
    metrics = MetricRecord({"num-examples": len(y), "loss": loss})
    content = RecordDict({"arrays": ArrayRecord(network.state_dict()), "metrics": metrics})
    return Message(content, reply_to=message)


@lru_cache(maxsize=1)
def resident(name: str, toy: bool) -> tuple[Work, list[tuple[Tensor, Tensor]], Network]:
    """Returns this process's work, samples of all clients, and network, made at its first message."""
    torch.set_num_threads(1)
    work = work_named(name, toy)
    return work, client_tensors(work), build_network(work)
