"""The common expert's weights on disk: a file each, with the report of how they came to be."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from fedmoe.data.storage import home, new_file
from fedmoe.errors import DataError
from fedmoe.moe.construction import build_expert, common_backbone, expert_spec
from fedmoe.moe.expert import Expert
from fedmoe.settings import Settings

__all__ = ["keep_weights", "load_weights", "open_weights", "save_weights", "weights_file"]


def weights_file(name: str) -> Path:
    """Returns where in the cache the weights of that name stand, or will."""
    return home() / "cache" / "common" / f"{name}.safetensors"


def keep_weights(expert: Expert, fingerprint: str, report: Mapping[str, Any]) -> None:
    """Keeps the common expert's weights where nodes find them by its fingerprint (`open_weights`)."""
    file = weights_file(f"weights-{fingerprint}")
    if not file.is_file():
        save_weights(expert, file, report)


def open_weights(settings: Settings, in_shape: Sequence[int], num_classes: int, fingerprint: str) -> Expert:
    """Returns the common expert that `keep_weights` has kept, in evaluation mode, without gradients, on the CPU.

    Raises:
        DataError: this node does not find it, or it is damaged.
    """
    backbone = common_backbone(settings)
    expert = build_expert(backbone, expert_spec(settings, in_shape, num_classes, backbone), 0)
    file = weights_file(f"weights-{fingerprint}")
    if not file.is_file():
        raise DataError(f"this node must find the common expert that the server has kept, got no file '{file}'")
    load_weights(expert, file)
    return expert.eval().requires_grad_(False)


def save_weights(expert: Expert, file: Path, report: Mapping[str, Any]) -> None:
    """Writes the weights, with the report in the file's metadata; all of it or nothing."""
    tensors = {name: tensor.cpu().contiguous() for name, tensor in expert.state_dict().items()}
    with new_file(file) as draft:
        save_file(tensors, draft, metadata={"report": json.dumps(dict(report))})


def load_weights(expert: Expert, file: Path) -> dict[str, Any]:
    """Fills the expert with the weights of a file; returns the report that stands in it, empty where there is none.

    Raises:
        DataError: they do not fit, or the file is damaged.
    """
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
