"""pfl-research at its best: its simulated backend in one process, users in memory, no evaluation.

Its users' batches are cut once and kept (it never shuffles), so it does a little less than the others. Its first
iteration always evaluates; that one is a warm-up.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from benchmarks.networks import Network, build_network
from benchmarks.sides import Rounds, Serve
from benchmarks.sides.client_data import client_tensors
from benchmarks.sides.epoch import flat
from benchmarks.workloads import Work

__all__ = ["run"]

NEVER = 2**31  # iterations between two evaluations


def run(work: Work, threads: int, serve: Serve, *, bf16: bool) -> None:
    """Serves rounds of pfl's federated averaging, clients weighted by their samples.

    Args:
        work: what is done.
        threads: torch threads.
        serve: is called once all is ready.
        bf16: whether pfl's own autocast to bfloat16 is on; else all is fp32.
    """
    # Here and not at the top: pfl is installed by the dependency group `benchmarks` only.
    from pfl.aggregate.simulate import SimulatedBackend
    from pfl.aggregate.weighting import WeightByDatapoints
    from pfl.algorithm.base import NNAlgorithmParams
    from pfl.algorithm.federated_averaging import FederatedAveraging
    from pfl.hyperparam.base import NNTrainHyperParams

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    data, model, seen = federated_data(work), pfl_model(work, bf16), SampleCount()
    backend = SimulatedBackend(training_data=data, val_data=data, postprocessors=[WeightByDatapoints()])
    algorithm = FederatedAveraging()
    local = NNTrainHyperParams(
        local_batch_size=work.batch_size, local_num_epochs=1, local_learning_rate=work.learning_rate
    )
    rounds_done = 0

    def train() -> int:
        nonlocal rounds_done
        rounds_done += 1
        params = NNAlgorithmParams(
            central_num_iterations=rounds_done,  # `run` goes on where it stopped: one iteration more each time
            evaluation_frequency=NEVER,
            train_cohort_size=work.clients,
            val_cohort_size=None,
        )
        algorithm.run(params, backend, model, local, callbacks=[seen], send_metrics_to_platform=False)
        return seen.samples

    serve(Rounds(train, lambda: flat(model.pytorch_model.parameters())))


def federated_data(work: Work) -> Any:
    """Returns pfl's federated data set of the work's clients, each user's tensors and batches resident."""
    from pfl.data.federated_dataset import FederatedDataset
    from pfl.data.pytorch import PyTorchTensorDataset
    from pfl.data.sampling import get_user_sampler

    users = {str(i): PyTorchTensorDataset((x, y), user_id=str(i)) for i, (x, y) in enumerate(client_tensors(work))}
    return FederatedDataset(users.__getitem__, get_user_sampler("minimize_reuse", list(users)))


def pfl_model(work: Work, bf16: bool) -> Any:
    """Returns the work's network as pfl wants it, with a server that takes over the average as it is."""
    from pfl.model.pytorch import PyTorchModel

    network = PflNetwork(build_network(work))
    return PyTorchModel(
        network,
        local_optimizer_create=lambda parameters, lr: torch.optim.SGD(parameters, lr=lr, momentum=work.momentum),
        central_optimizer=torch.optim.SGD(network.parameters(), lr=1.0),
        amp_dtype=torch.bfloat16 if bf16 else None,
    )


class PflNetwork(torch.nn.Module):
    """A network with the two methods that pfl calls."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Returns the mean cross-entropy."""
        return cross_entropy(self.network(x), y)

    @torch.no_grad()
    def metrics(self, x: Tensor, y: Tensor) -> dict[str, Any]:
        """Returns the loss as pfl's metric."""
        from pfl.metrics import Weighted

        return {"loss": Weighted(float(self.loss(x, y)) * len(y), len(y))}


class SampleCount:
    """A callback of pfl's that reads how many samples the last iteration trained on."""

    samples = 0

    def on_train_begin(self, *, model: Any) -> Any:
        """Returns no metrics."""
        from pfl.metrics import Metrics

        return Metrics()

    def after_central_iteration(self, metrics: Any, model: Any, *, central_iteration: int) -> tuple[bool, Any]:
        """Reads the count; never stops the run."""
        from pfl.aggregate.base import get_num_datapoints_weight_name
        from pfl.common_types import Population
        from pfl.metrics import Metrics

        self.samples = int(metrics[get_num_datapoints_weight_name(Population.TRAIN)].weighted_value)
        return False, Metrics()

    def on_train_end(self, *, model: Any) -> None:
        """Does nothing."""
