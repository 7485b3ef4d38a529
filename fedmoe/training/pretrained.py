"""torchvision's pretrained networks as common expert: their features, and a linear head fitted on the public split."""

from urllib.error import URLError

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate
from torchvision import models

from fedmoe.errors import DataError, SettingsError, nearest_hint
from fedmoe.moe.expert import Expert

__all__ = ["PretrainedExpert", "check_name", "fit_head", "pretrained_expert"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
SIDE = 128  # pixels: small images are enlarged to this; 224 costs three times the work for little on 32 x 32 images


class PretrainedExpert(Expert):
    """A torchvision network whose last linear layer is replaced by a head for this data's classes.

    Args:
        backbone: the network; its last `nn.Linear` is cut off.
        num_classes: classes of this data.
        mean: per-channel mean that inputs were normalised with, in [0, 255].
        std: per-channel standard deviation likewise.
    """

    mean: Tensor
    std: Tensor
    to_mean: Tensor
    to_std: Tensor

    def __init__(self, backbone: nn.Module, num_classes: int, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.embedding_dim = _cut_off_head(backbone)
        self.backbone = backbone
        self.head = nn.Linear(self.embedding_dim, num_classes)
        self.register_buffer("mean", mean.view(-1, 1, 1), persistent=False)
        self.register_buffer("std", std.view(-1, 1, 1), persistent=False)
        self.register_buffer("to_mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("to_std", torch.tensor(IMAGENET_STD).view(3, 1, 1), persistent=False)

    def embed(self, x_BCHW: Tensor) -> Tensor:
        """Returns the network's features; inputs go back to pixels, to three channels, up in size, to its own scale."""
        pixels = (x_BCHW * self.std + self.mean) / 255
        colour = pixels.expand(-1, 3, -1, -1) if pixels.shape[1] == 1 else pixels
        large = interpolate(colour, size=(SIDE, SIDE), mode="bilinear", antialias=False)
        features: Tensor = self.backbone((large - self.to_mean) / self.to_std)
        return features.flatten(1)


def pretrained_expert(name: str, num_classes: int, mean: Tensor, std: Tensor) -> PretrainedExpert:
    """Returns torchvision's network `name` with its default pretrained weights and a fresh head.

    Raises:
        SettingsError: torchvision has no classification model of that name.
        DataError: its weights are neither in torch's cache nor to be downloaded, or their hash is wrong.
    """
    check_name(name)
    weights = models.get_model_weights(name).DEFAULT
    try:
        state = weights.get_state_dict(progress=False, check_hash=True)
    except (URLError, OSError, RuntimeError) as error:
        folder = torch.hub.get_dir() + "/checkpoints"
        raise DataError(
            f"common-expert.source 'torchvision:{name}': its weights must be in {folder} or be downloadable from "
            f"{weights.url}, got: {error}; hint: put the file {weights.url.rpartition('/')[2]} there"
        ) from error
    backbone = models.get_model(name, weights=None)
    backbone.load_state_dict(state)
    return PretrainedExpert(backbone, num_classes, mean, std)


def check_name(name: str) -> None:
    """Refuses a name that torchvision has no classification model of.

    Raises:
        SettingsError: with the nearest known name.
    """
    known = models.list_models(module=models)
    if name not in known:
        raise SettingsError(f"common-expert.source 'torchvision:{name}': no such model; {nearest_hint(name, known)}")


def fit_head(expert: PretrainedExpert, embedding_ND: Tensor, y_N: Tensor, steps: int = 100) -> None:
    """Fits the head in place: L-BFGS on the cross-entropy of the public split's embeddings, weight decay 1e-3."""
    head = expert.head
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    optimiser = torch.optim.LBFGS(head.parameters(), max_iter=steps, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = cross_entropy(head(embedding_ND), y_N) + 1e-3 * head.weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]


def _cut_off_head(backbone: nn.Module) -> int:
    """Replaces the last linear layer by the identity; returns the width of what it read."""
    name, last = [(n, m) for n, m in backbone.named_modules() if isinstance(m, nn.Linear)][-1]
    parent = backbone.get_submodule(name.rpartition(".")[0])
    setattr(parent, name.rpartition(".")[2], nn.Identity())
    return last.in_features
