"""The common expert: pretrained on the public split (or given), then frozen; kept in a cache by content."""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import cross_entropy

from fedmoe.data.contracts import Dataset, Ids
from fedmoe.data.storage import home, new_file
from fedmoe.errors import DataError
from fedmoe.moe.construction import build_expert, common_backbone, expert_arguments
from fedmoe.moe.expert import Expert, ExpertSpec
from fedmoe.moe.vectors import to_vector
from fedmoe.references import load_plugin, source_of
from fedmoe.seeding import derive_seed, torch_stream
from fedmoe.settings import Settings
from fedmoe.training.pretrained import PretrainedExpert, check_name, fit_head, pretrained_expert
from fedmoe.training.sample_store import channel_statistics

__all__ = ["CommonExpert", "common_expert", "expert_spec", "forward_all", "keep_weights", "open_weights"]

PATIENCE = 10.0  # seconds after which a person wants to know how far it is
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
    file = home() / "cache" / "common" / f"{key}.safetensors"
    if source.startswith("torchvision:"):
        backbone = source
        expert: Expert = pretrained_expert(
            source.removeprefix("torchvision:"), spec.num_classes, *channel_statistics(dataset.x_NCHW, public_ids)
        )
        train = _probe
    else:
        expert = build_expert(backbone, spec, derive_seed(settings.seed, "common expert"))
        train = _pretrain
    if source != "public" and train is _pretrain:
        _load(expert, Path(source).expanduser())
        report: dict[str, Any] = {"source": source}
    elif file.is_file():
        report = _load(expert, file) | {"cached": True}
        tell(f"common expert: from the cache, {report['held_out_accuracy']:.1%} on held-out public samples")
    else:
        tell(f"common expert: {backbone} on {len(public_ids):,} public samples, once")
        report = train(expert.to(device), settings, dataset, public_ids, device, tell) | {"cached": False}
        _save(expert, file, report)
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


def expert_spec(
    settings: Settings, in_shape: Sequence[int], num_classes: int, backbone: str = "", common: Expert | None = None
) -> ExpertSpec:
    """Returns what experts (and the common expert) are built from for inputs of this shape.

    Args:
        settings: the run's.
        in_shape: channels, height, width.
        num_classes: C.
        backbone: empty: the experts'.
        common: the common expert, for experts that stand on it.

    Raises:
        SettingsError: the backbone does not take the arguments of its table.
    """
    channels, height, width = (int(n) for n in in_shape)
    return ExpertSpec(
        in_shape=(channels, height, width),
        num_classes=num_classes,
        width=settings.experts.width,
        norm=settings.experts.norm,
        arguments=expert_arguments(settings, backbone or settings.experts.model),
        common=common,
    )


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


def _pretrain(
    expert: Expert,
    settings: Settings,
    dataset: Dataset,
    public_ids: Ids,
    device: torch.device,
    tell: Callable[[str], None],
) -> dict[str, Any]:
    """Trains in place on nine tenths of the public split."""
    common = settings.common_expert
    stream = torch_stream(settings.seed, "common expert", "batches")
    held_out, train_ids = _split(settings, public_ids)
    mean, std = (t.view(-1, 1, 1).to(device) for t in channel_statistics(dataset.x_NCHW, public_ids))
    x = torch.from_numpy(np.ascontiguousarray(dataset.x_NCHW[train_ids])).to(device)
    y = torch.from_numpy(np.ascontiguousarray(dataset.y_N[train_ids])).to(device)
    optimiser = torch.optim.SGD(expert.parameters(), lr=common.learning_rate, momentum=0.9, weight_decay=5e-4)
    steps = max(1, common.epochs * -(-len(y) // common.batch_size))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    accuracy, epoch, told = 0.0, 0, time.monotonic()
    for epoch in range(1, common.epochs + 1):
        expert.train()
        if time.monotonic() - told > PATIENCE:
            tell(f"common expert: epoch {epoch} of at most {common.epochs}")
            told = time.monotonic()
        for rows in torch.split(torch.randperm(len(y), generator=stream).to(device), common.batch_size):
            loss = cross_entropy(expert((x[rows].float() - mean) / std), y[rows])
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
        if common.accuracy > 0:
            accuracy = _accuracy(expert, dataset, held_out, mean, std, device)
            if accuracy >= common.accuracy:
                break
    accuracy = _accuracy(expert, dataset, held_out, mean, std, device)
    return {
        "source": "public",
        "epochs": epoch,
        "held_out_accuracy": accuracy,
        "asked_accuracy": common.accuracy,
        "reached": accuracy >= common.accuracy,
    }


def _probe(
    expert: Expert,
    settings: Settings,
    dataset: Dataset,
    public_ids: Ids,
    device: torch.device,
    tell: Callable[[str], None],
) -> dict[str, Any]:
    """Fits the head of a pretrained network on nine tenths of the public split."""
    if not isinstance(expert, PretrainedExpert):
        raise TypeError(f"only a pretrained network is probed, got {type(expert).__name__}")
    held_out, train_ids = _split(settings, public_ids)
    mean, std = channel_statistics(dataset.x_NCHW, public_ids)
    chunks = forward_all(expert, dataset.x_NCHW[train_ids], mean.to(device), std.to(device), device)
    embeddings = torch.from_numpy(np.concatenate([embedding for embedding, _ in chunks])).to(device)
    fit_head(expert, embeddings, torch.from_numpy(dataset.y_N[train_ids]).to(device))
    return {
        "source": settings.common_expert.source,
        "epochs": 0,
        "held_out_accuracy": _accuracy(expert, dataset, held_out, mean.to(device), std.to(device), device),
        "asked_accuracy": 0.0,
        "reached": True,
    }


def _split(settings: Settings, public_ids: Ids) -> tuple[Ids, Ids]:
    """Returns a tenth of the public split, held out to tell the accuracy, and the rest, to train on; by lot."""
    stream = torch_stream(settings.seed, "common expert", "split")
    order = public_ids[torch.randperm(len(public_ids), generator=stream).numpy()]
    return order[: len(order) // 10], order[len(order) // 10 :]


def _accuracy(expert: Expert, dataset: Dataset, ids: Ids, mean: Tensor, std: Tensor, device: torch.device) -> float:
    if len(ids) == 0:  # fewer than ten public samples: nothing was held out
        return float("nan")
    logits = [logits for _, logits in forward_all(expert, dataset.x_NCHW[ids], mean, std, device)]
    return float((np.concatenate(logits).argmax(axis=1) == dataset.y_N[ids]).mean())


@torch.no_grad()
def forward_all(
    expert: Expert, images: NDArray[np.uint8], mean: Tensor, std: Tensor, device: torch.device, batch: int = 256
) -> "Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]":
    """Yields (embeddings, logits) of the images, in chunks of `batch`, in evaluation mode."""
    expert.eval()
    for start in range(0, len(images), batch):
        x = torch.from_numpy(np.array(images[start : start + batch])).to(device)  # a copy: the mapped file is read-only
        embedding = expert.embed((x.float() - mean.view(-1, 1, 1)) / std.view(-1, 1, 1))
        yield embedding.float().cpu().numpy(), expert.head(embedding).float().cpu().numpy()


def keep_weights(common: CommonExpert) -> None:
    """Keeps the common expert's weights where nodes find them by its fingerprint (`open_weights`)."""
    file = home() / "cache" / "common" / f"weights-{common.fingerprint}.safetensors"
    if not file.is_file():
        _save(common.expert, file, common.report)


def open_weights(settings: Settings, in_shape: Sequence[int], num_classes: int, fingerprint: str) -> Expert:
    """Returns the common expert that `keep_weights` has kept, in evaluation mode, without gradients, on the CPU.

    Raises:
        DataError: this node does not find it, or it is damaged.
    """
    backbone = common_backbone(settings)
    expert = build_expert(backbone, expert_spec(settings, in_shape, num_classes, backbone), 0)
    file = home() / "cache" / "common" / f"weights-{fingerprint}.safetensors"
    if not file.is_file():
        raise DataError(f"this node must find the common expert that the server has kept, got no file '{file}'")
    _load(expert, file)
    return expert.eval().requires_grad_(False)


def _save(expert: Expert, file: Path, report: Mapping[str, Any]) -> None:
    tensors = {name: tensor.cpu().contiguous() for name, tensor in expert.state_dict().items()}
    with new_file(file) as draft:
        save_file(tensors, draft, metadata={"report": json.dumps(dict(report))})


def _load(expert: Expert, file: Path) -> dict[str, Any]:
    try:
        expert.load_state_dict(load_file(file))
        with safe_open(file, framework="pt") as opened:
            report: dict[str, Any] = json.loads((opened.metadata() or {}).get("report", "{}"))
    except (SafetensorError, RuntimeError) as error:
        raise DataError(
            f"common expert '{file}' does not fit: {str(error).splitlines()[0]}; "
            "hint: same backbone, width, norm and classes as the settings, or remove a damaged file"
        ) from error
    return report
