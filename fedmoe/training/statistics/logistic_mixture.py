"""The sums that expectation maximisation needs of a client, for linear experts under a linear gate."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fedmoe.federation.logistic_mixture import LogisticMixture, mixture_sums, rows_of
from fedmoe.federation.logistic_sums import Floats
from fedmoe.federation.packed_sums import packed
from fedmoe.moe.expert import Expert
from fedmoe.moe.gate import Gate
from fedmoe.moe.gates.softmax import SoftmaxGate
from fedmoe.moe.transform import TRANSFORMS
from fedmoe.moe.vectors import to_vector
from fedmoe.training.samples import ClientSamples
from fedmoe.training.statistic import Answer

__all__ = ["LogisticMixtureSums"]


class LogisticMixtureSums:
    """The E-step at the given experts and gate (arXiv 2310.14188, equation 1), as `packed` gives its sums.

    Experts are linear in what they embed (`linear`, `head`), the gate is `softmax`; both are read as they are, a shift
    of all of a softmax's rows changes nothing.

    Args:
        missing: whether the missing information is wanted, P x P numbers more.
    """

    def __init__(self, missing: bool = False) -> None:
        self.missing = missing

    @torch.no_grad()
    def __call__(self, experts: Sequence[Expert], gate: Gate | None, samples: ClientSamples) -> Answer:
        """Returns the means over the client's samples, and minus the log-likelihood of one.

        Raises:
            ValueError: the gate is another one, or the client has no sample.
        """
        if not isinstance(gate, SoftmaxGate):
            raise ValueError(f"the sums are those of the gate 'softmax', got {type(gate).__name__}")
        if not len(samples):
            raise ValueError("a client must have a sample at least")
        mixture = LogisticMixture(
            gate_MG=rows_of(to_vector(gate), len(experts)),
            experts_MCF=np.stack([rows_of(to_vector(expert), expert.head.out_features) for expert in experts]),
        )
        read = experts[0].embed(samples.inputs(slice(None)))
        bent = TRANSFORMS[gate.transform](samples.gate_input)
        sums = mixture_sums(mixture, with_one(read), with_one(bent), samples.y.cpu().numpy(), missing=self.missing)
        return Answer(packed(sums).astype(np.float32), -sums.log_likelihood / sums.weight)


def with_one(input_BD: Tensor) -> Floats:
    """Returns the features and a constant one."""
    found: Floats = torch.cat([input_BD, torch.ones_like(input_BD[:, :1])], dim=1).double().cpu().numpy()
    return found
