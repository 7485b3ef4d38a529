"""Whether the parts that a run names are there, take their arguments, and go together."""

from fedmoe.data.contracts import is_over_domains
from fedmoe.data.domains import parse_domains
from fedmoe.data.drift import LABELS
from fedmoe.errors import SettingsError, nearest_hint
from fedmoe.moe.construction import (
    EXPERTS,
    GATES,
    build_gate,
    common_backbone,
    expert_arguments,
    expert_reads,
    gate_spec,
    stands_on_common,
)
from fedmoe.references import known_names, load_plugin, short_name
from fedmoe.settings import Settings
from fedmoe.training.common_expert import check_source

__all__ = ["check_plugins"]


def check_plugins(settings: Settings) -> None:
    """Refuses an unknown data set, partition, gate or backbone before anything is loaded.

    Raises:
        ReferenceError_: the first name that leads nowhere, with the known ones.
        SettingsError: names that do not go together.
    """
    load_plugin("data set", "fedmoe.data.datasets", settings.data.name)
    _check_tables(settings)
    build_gate(settings.gate.name, gate_spec(settings, settings.gate.name, 2, settings.experts.num), 0)
    for model in {settings.experts.model, common_backbone(settings)}:
        expert_arguments(settings, model)
    _check_reads(settings)
    over = is_over_domains(load_plugin("partition", "fedmoe.data.partitions", settings.clients.partition))
    if settings.clients.permute_labels and not over:
        raise SettingsError(
            "clients.permute-labels permutes the labels of each domain, and needs a partition over domains, got "
            f"clients.partition='{settings.clients.partition}'; hint: clients.partition='domain'"
        )
    if over:
        for domain in parse_domains(settings.clients.domains, alike=settings.clients.permute_labels):
            load_plugin("transform", "fedmoe.data.transforms", domain)
    if settings.clients.drift_round and settings.clients.drift != LABELS:
        load_plugin("transform", "fedmoe.data.transforms", settings.clients.drift)
    check_source(settings.common_expert.source)


def _check_tables(settings: Settings) -> None:
    """Refuses a table of arguments that belongs to no gate, or no backbone, that there is."""
    for kind, package, given in (
        ("gate", GATES, (settings.gate.name,)),
        ("experts", EXPERTS, (settings.experts.model, settings.common_expert.model)),
    ):
        known = {*known_names(package), *(short_name(name, package) for name in given)}
        for table in getattr(settings, kind).arguments:
            if table not in known:
                raise SettingsError(f"unknown settings table '{kind}.{table}'; {nearest_hint(table, known)}")


def _check_reads(settings: Settings) -> None:
    """Refuses experts that cannot have what they read."""
    model, common = settings.experts.model, settings.common_expert
    reads = expert_reads(model)
    if reads not in ("image", "embedding"):
        raise SettingsError(f"experts.model must read 'image' or 'embedding', got '{model}', which reads '{reads}'")
    if not common.source.startswith("torchvision:") and expert_reads(common_backbone(settings)) != "image":
        raise SettingsError(
            f"common-expert.model must name an image backbone when experts.model='{model}', got '{common.model}': "
            "there is no embedding before the common expert; hint: common-expert.model='mlp'"
        )
    if stands_on_common(common_backbone(settings)):
        raise SettingsError(
            f"common-expert.model must name a backbone of its own when experts.model='{model}', got '{common.model}': "
            "those experts are corrections of it; hint: common-expert.model='mlp'"
        )
    if stands_on_common(model) and common.source.startswith("torchvision:"):
        raise SettingsError(
            f"experts.model='{model}' stands on a common expert with a backbone of fedmoe's, got common-expert.source="
            f"'{common.source}'; hint: common-expert.source='public'"
        )
    if settings.evaluate.attack_eps and (reads != "image" or common.source.startswith("torchvision:")):
        raise SettingsError(
            "evaluate.attack-eps needs experts that read images, and a common expert with a backbone of fedmoe's, got "
            f"experts.model='{model}' and common-expert.source='{common.source}'; hint: experts.model='cnn'"
        )
    if reads == "embedding" and settings.train.augmentation != "none":
        raise SettingsError(
            f"train.augmentation must be 'none' when experts.model='{model}', got '{settings.train.augmentation}': it "
            "reads embeddings, which are computed once, of whole images; hint: train.augmentation='none'"
        )
