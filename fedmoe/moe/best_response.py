"""A layer that knows what it would be under other hyper-parameters: to first order, its own best response.

Shapes: B samples, I inputs, O outputs, H hyper-parameters.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

__all__ = ["BestResponse"]

START = 0.01  # standard deviation of U's first values


class BestResponse(nn.Linear):
    """`y = s (W_e x + b_e) + (U h)_w * (W_h x) + (U h)_b * b_h` (Self-Tuning Networks, arXiv 1903.03088).

    h are the unconstrained hyper-parameters of each sample; U, without a bias, maps them to a factor for each output of
    the second weights and one for the second bias. Where it is trained with h drawn around a point, it learns how the
    best weights change with h there. It has twice a linear layer's weights, and U. With U h = 0 and s = 1 it is one.

    Ours and theirs: `weight`, `bias` are W_e, b_e; `response_weight`, `response_bias` are W_h, b_h; `factors` is U;
    `scale` is s.

    Args:
        in_features: I.
        out_features: O.
        hyper: H.
    """

    def __init__(self, in_features: int, out_features: int, hyper: int) -> None:
        super().__init__(in_features, out_features)
        other = nn.Linear(in_features, out_features)
        self.response_weight, self.response_bias = other.weight, other.bias
        self.factors = nn.Parameter(START * torch.randn(2 * out_features, hyper))
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x_BI: Tensor, hyper_BH: Tensor | None = None) -> Tensor:
        """Returns y_BO, each sample's under its own hyper-parameters; `None`: all are 0.

        Args:
            x_BI: inputs.
            hyper_BH: hyper-parameters; B may be 1, for one h that all samples share.
        """
        plain_BO = self.scale * linear(x_BI, self.weight, self.bias)
        if hyper_BH is None:
            return plain_BO
        of_weight_BO, of_bias_BO = (hyper_BH @ self.factors.T).chunk(2, dim=1)
        return plain_BO + of_weight_BO * linear(x_BI, self.response_weight) + of_bias_BO * self.response_bias

    def weights(self, hyper_BH: Tensor) -> Tensor:
        """Returns weight_BOI: the matrix by which x is multiplied under each h; what a penalty on weights is about."""
        of_weight_BO = (hyper_BH @ self.factors.T).chunk(2, dim=1)[0]
        return self.scale * self.weight + of_weight_BO[:, :, None] * self.response_weight
