"""The common expert: pretrained on the public split (or given), then frozen; kept in a cache by content."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fedmoe.data.contracts import Dataset, Ids
from fedmoe.errors import DataError
from fedmoe.moe.construction import build_expert, common_backbone, expert_spec
from fedmoe.moe.expert import Expert, ExpertSpec
from fedmoe.moe.vectors import to_vector
from fedmoe.references import load_plugin, source_of
from fedmoe.seeding import derive_seed
from fedmoe.settings import Settings
from fedmoe.training.common_weights import load_weights, save_weights, weights_file
from fedmoe.training.pretrained import check_name, pretrained_expert
from fedmoe.training.pretraining import pretrain, probe
from fedmoe.training.sample_store import channel_statistics

__all__ = ["CommonExpert", "check_source", "common_expert"]

RECIPE = "2"  # part of the cache's key: raise it whenever the same settings would give other weights


@dataclass(frozen=True, kw_only=True)
class CommonExpert:
    """A frozen network and where it came from.

    Attributes:
        expert: the network, in evaluation mode, without gradients.
        backbone: name of its backbone.
        fingerprint: sha256 of its weights and backbone.
        report: what a reader must know: source, epochs, held-out accuracy, whether the stated accuracy was reached.
    """

    expert: Expert
    backbone: str
    fingerprint: str
    report: Mapping[str, Any]


def common_expert(
    settings: Settings,
    dataset: Dataset,
    data_fingerprint: str,
    public_ids: Ids,
    device: torch.device,
    tell: Callable[[str], None] = lambda _: None,
) -> CommonExpert:
    """Returns the common expert that the settings ask for; one that was trained before comes from the cache.

    Args:
        settings: the run's.
        dataset: all samples.
        data_fingerprint: content hash of the data.
        public_ids: samples that it may be trained on.
        device: where it is trained.
        tell: is told in a line what is being done.

    Raises:
        DataError: a given file is missing, broken or of another shape.
    """
    backbone = common_backbone(settings)
    spec = expert_spec(settings, dataset.x_NCHW.shape[1:], len(dataset.class_names), backbone)
    source = settings.common_expert.source
    check_source(source)
    key = _cache_key(settings, backbone, spec, data_fingerprint, public_ids, device)
    file = weights_file(key)
    if source.startswith("torchvision:"):
        backbone = source
        expert: Expert = pretrained_expert(
            source.removeprefix("torchvision:"), spec.num_classes, *channel_statistics(dataset.x_NCHW, public_ids)
        )
        train = probe
    else:
        expert = build_expert(backbone, spec, derive_seed(settings.seed, "common expert"))
        train = pretrain
    if source != "public" and train is pretrain:
        load_weights(expert, Path(source).expanduser())
        report: dict[str, Any] = {"source": source}
    elif file.is_file():
        report = load_weights(expert, file) | {"cached": True}
        tell(f"common expert: from the cache, {report['held_out_accuracy']:.1%} on held-out public samples")
    else:
        tell(f"common expert: {backbone} on {len(public_ids):,} public samples, once")
        report = train(expert.to(device), settings, dataset, public_ids, device, tell) | {"cached": False}
        save_weights(expert, file, report)
        tell(f"common expert: {report['held_out_accuracy']:.1%} on held-out public samples")
    expert.eval().requires_grad_(False).to(device)
    digest = hashlib.sha256(backbone.encode() + source_of(type(expert)) + to_vector(expert).tobytes())
    if spec.arguments:  # of which some leave no trace in the weights
        digest.update(repr(sorted(spec.arguments.items())).encode())
    for statistic in channel_statistics(
        dataset.x_NCHW, public_ids
    ):  # inputs are normalised by them before it sees them
        digest.update(statistic.numpy().tobytes())
    return CommonExpert(expert=expert, backbone=backbone, fingerprint=digest.hexdigest(), report=report)


def check_source(source: str) -> None:
    """Refuses a source that cannot be right, before anything is loaded.

    Raises:
        SettingsError: torchvision has no such model.
        DataError: there is no such file.
    """
    if source.startswith("torchvision:"):
        check_name(source.removeprefix("torchvision:"))
    elif source != "public" and not Path(source).expanduser().is_file():
        raise DataError(f"common-expert.source must be 'public', 'torchvision:NAME' or a file, got '{source}'")


def _cache_key(
    settings: Settings, backbone: str, spec: ExpertSpec, data: str, public_ids: Ids, device: torch.device
) -> str:
    """Returns the name of a trained common expert: all that its weights depend on, this machine's torch among it."""
    where = (device.type, torch.__version__)
    parts = [RECIPE, backbone, repr(spec), data, repr(settings.common_expert), str(settings.seed), *where]
    digest = hashlib.sha256("\n".join(parts).encode())
    if not settings.common_expert.source.startswith("torchvision:"):
        digest.update(source_of(load_plugin("expert", "fedmoe.moe.experts", backbone)))
    digest.update(np.ascontiguousarray(public_ids).tobytes())
    return digest.hexdigest()[:32]
