"""Activations as gates, with a range that is learnt: formulas only.

Most activations are a number times a gate between 0 and 1. `x * g(x)` is GELU for the normal distribution's g, SiLU for
the logistic one's. A. H. Huang (arXiv 2405.20768) lets the gate go beyond both ends: from -range to 1 + range, where
`range` (their alpha) is one trained number, at first 0. A gated linear unit takes its gate from one half of what it
reads, and multiplies the other half.

Shapes: B samples, H units.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import pi, sqrt

import torch
from torch import Tensor, nn

from fedmoe.errors import SettingsError, nearest_hint

__all__ = ["ACTIVATIONS", "Activation", "arctan_gate", "logistic_gate", "make_activation", "normal_gate"]


def arctan_gate(x: Tensor) -> Tensor:
    """Returns `(arctan(x) + pi/2) / pi`, in (0, 1): the gate of ATLU (arXiv 2405.20768), slow to saturate."""
    return (torch.atan(x) + pi / 2) / pi


def normal_gate(x: Tensor) -> Tensor:
    """Returns the normal distribution function, in (0, 1): the gate of GELU (arXiv 1606.08415)."""
    return (1 + torch.erf(x / sqrt(2))) / 2


def logistic_gate(x: Tensor) -> Tensor:
    """Returns the logistic function, in (0, 1): the gate of SiLU."""
    return torch.sigmoid(x)


def step_gate(x: Tensor) -> Tensor:
    """Returns 1 above 0, else 0: the gate of ReLU. It has no gradient."""
    return (x > 0).to(x.dtype)


@dataclass(frozen=True)
class Form:
    """What an activation computes.

    Attributes:
        gate: g.
        expanded: whether its range is learnt.
        halves: whether it reads 2H values, x and y, to give H: a gated linear unit.
        order: of a gated linear unit: 1 gives `g(x) y`, 2 gives `g(x) x y`.
    """

    gate: Callable[[Tensor], Tensor]
    expanded: bool = False
    halves: bool = False
    order: int = 2


ACTIVATIONS: dict[str, Form] = {
    "relu": Form(step_gate),
    "gelu": Form(normal_gate),
    "silu": Form(logistic_gate),
    "atlu": Form(arctan_gate),
    "xgelu": Form(normal_gate, expanded=True),
    "xsilu": Form(logistic_gate, expanded=True),
    "xatlu": Form(arctan_gate, expanded=True),
    "glu": Form(logistic_gate, halves=True, order=1),
    "xglu": Form(logistic_gate, expanded=True, halves=True, order=1),
    "atglu": Form(arctan_gate, halves=True, order=1),
    "xatglu": Form(arctan_gate, expanded=True, halves=True, order=1),
    "swiglu": Form(logistic_gate, halves=True),
}
"""Name -> what it computes. A name with an x in front has a range that is learnt."""


class Activation(nn.Module):
    """`x h(x)`, or of a gated linear unit `h(x) y` (order 1) or `h(x) x y` (order 2), with the gate `h`.

    `h(x) = g(x) (1 + 2 range) - range` (arXiv 2405.20768); where the range is not learnt, `h = g`, which is the same
    for a range of 0, to the last bit.

    Attributes:
        form: what it computes.
        range: a parameter without axes, their alpha, where it is learnt; else `None`.
    """

    range: nn.Parameter | None

    def __init__(self, form: Form) -> None:
        super().__init__()
        self.form = form
        if form.expanded:
            self.range = nn.Parameter(torch.zeros(()))
        else:
            self.register_parameter("range", None)

    def gate(self, x: Tensor) -> Tensor:
        """Returns h, from -range to 1 + range."""
        gate = self.form.gate(x)
        return gate if self.range is None else gate * (1 + 2 * self.range) - self.range

    def forward(self, input_BH: Tensor) -> Tensor:
        """Returns one value a unit; a gated linear unit reads (B, 2H), first all x, then all y."""
        if not self.form.halves:
            return input_BH * self.gate(input_BH)
        x_BH, y_BH = input_BH.chunk(2, dim=-1)
        return self.gate(x_BH) * y_BH * (x_BH if self.form.order == 2 else 1)


def make_activation(name: str, setting: str = "activation") -> Activation:
    """Returns the activation of that name.

    Args:
        name: one of `ACTIVATIONS`.
        setting: what the person has set, for the message.

    Raises:
        SettingsError: there is none of that name.
    """
    if name not in ACTIVATIONS:
        raise SettingsError(
            f"{setting} must be the name of an activation, got '{name}'; hint: {nearest_hint(name, ACTIVATIONS)}"
        )
    return Activation(ACTIVATIONS[name])
