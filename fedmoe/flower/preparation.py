"""What stands before the first round: data, population, common expert, embeddings; each from its cache where it can."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from fedmoe.data.concept_shift import label_meanings
from fedmoe.data.content_cache import PreparedData
from fedmoe.data.contracts import LoadRequest, is_over_domains
from fedmoe.data.domains import parse_domains
from fedmoe.data.drift import LABELS, drifted
from fedmoe.data.embeddings import Chunk, EmbeddingTable, embedding_table
from fedmoe.data.population import Population, build_population
from fedmoe.data.population_cache import keep_population, open_population
from fedmoe.data.prepared import apply_domains, prepare
from fedmoe.errors import SettingsError, nearest_hint
from fedmoe.federation.state import ServerState
from fedmoe.moe.construction import (
    EXPERTS,
    GATES,
    build_expert,
    build_gate,
    common_backbone,
    expert_arguments,
    expert_reads,
    gate_class,
    gate_spec,
    is_head_alone,
    stands_on_common,
)
from fedmoe.moe.expert import ExpertSpec
from fedmoe.moe.gate import Gate
from fedmoe.moe.vectors import Part, Vector, parts_of, to_vector
from fedmoe.references import known_names, load_plugin, short_name
from fedmoe.seeding import derive_seed
from fedmoe.settings import Settings
from fedmoe.training.common_expert import (
    CommonExpert,
    check_source,
    common_expert,
    expert_spec,
    forward_all,
    keep_weights,
)
from fedmoe.training.sample_store import SampleStore, channel_statistics

__all__ = ["Preparation", "can_start_from", "check_plugins", "prepare_run"]


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """What all methods of a run share.

    Attributes:
        settings: the run's.
        data: the data set, memory-mapped, domains applied.
        population: who holds which samples.
        partition: its hash.
        common: the common expert.
        table: its embeddings and logits of every sample.
        store: all of that as tensors on demand.
        spec: what experts are built from.
        notes: sentences that a reader of the results must know.
        drifted: the same from round `clients.drift-round` on; `None`: nothing drifts.
    """

    settings: Settings
    data: PreparedData
    population: Population
    partition: str
    common: CommonExpert
    table: EmbeddingTable
    store: SampleStore
    spec: ExpertSpec
    notes: tuple[str, ...] = field(default=())
    drifted: "Preparation | None" = None

    def at(self, round_num: int) -> "Preparation":
        """Returns what stands in this round."""
        return self if self.drifted is None or round_num < self.settings.clients.drift_round else self.drifted

    def plan(self, gate: str = "") -> Mapping[str, Any]:
        """Returns what every order carries, so that nodes open the same data and build the same gate.

        Args:
            gate: the gate's name, where the strategy has one that is not the settings'.
        """
        return {
            "data": self.data.fingerprint,
            "embeddings": self.table.key,
            "common": self.common.fingerprint,
            "partition": self.partition,
            "gate": gate or self.settings.gate.name,
        }

    def initial_state(self, num_experts: int, has_gate: bool, init: str, gate: str = "") -> ServerState:
        """Returns the state before round 1; same seed, same bytes.

        Args:
            num_experts: size of the pool.
            has_gate: whether the strategy has a gate.
            init: `"random"`, `"common"`, or empty: as `experts.init` says.
            gate: its name; empty: as the settings say.

        Raises:
            SettingsError: experts shall start from a common expert of another backbone.
        """
        settings, name = self.settings, self.settings.experts.model
        if (init or settings.experts.init) == "common" and not stands_on_common(name):
            if not can_start_from(self.common.backbone, name):
                raise SettingsError(
                    f"experts that start from the common expert must have its backbone ('{self.common.backbone}'), "
                    f"got experts.model '{name}'; hint: init='random', or equal models"
                )
            common = self.common.expert
            experts = (to_vector(common.head if is_head_alone(name) else common),) * num_experts
        else:
            experts = tuple(self._random_expert(i) for i in range(num_experts))
        return ServerState(gate=self.initial_gate(num_experts, gate) if has_gate else None, experts=experts)

    def _random_expert(self, expert_id: int) -> Vector:
        seed = derive_seed(self.settings.seed, "expert", expert_id)
        return to_vector(build_expert(self.settings.experts.model, self.spec, seed))

    def initial_gate(self, num_experts: int, gate: str = "") -> Vector:
        """Returns the gate before round 1; `gate` names it, empty: as the settings say."""
        return to_vector(self._gate(num_experts, gate))

    def layout(self, num_experts: int, has_gate: bool, gate: str = "") -> dict[str, tuple[Part, ...]]:
        """Returns of which tensors the vector of an expert (`"expert"`) and of the gate (`"gate"`) consist."""
        expert = build_expert(self.settings.experts.model, self.spec, 0)
        of_gate = {"gate": parts_of(self._gate(num_experts, gate))} if has_gate else {}
        return {"expert": parts_of(expert), **of_gate}

    def _gate(self, num_experts: int, gate: str) -> Gate:
        name = gate or self.settings.gate.name
        width = self.store.gate_width(gate_class(name).reads, num_experts)
        spec = gate_spec(self.settings, name, width, num_experts, self.store.in_shape)
        return build_gate(name, spec, derive_seed(self.settings.seed, "gate"))


def can_start_from(backbone: str, model: str) -> bool:
    """Returns whether experts can start from a common expert.

    They must have its backbone, or be its head alone, or stand on it (then they always start from it).

    Args:
        backbone: the common expert's.
        model: the experts' backbone.
    """
    return backbone == model or stands_on_common(model) or is_head_alone(model)


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


def prepare_run(settings: Settings, device: torch.device, tell: Callable[[str], None]) -> Preparation:
    """Returns everything that the methods of a run share; what was computed before comes from the cache.

    Args:
        settings: the run's.
        device: where the common expert is trained and its embeddings are computed.
        tell: is told, in a line each, what is being done; some steps take minutes the first time.

    Raises:
        DataError: data is missing or broken.
        SettingsError: the data cannot be dealt out as asked.
    """
    tell(f"data: {settings.data.name}")
    request = LoadRequest(
        root=settings.data.root or None, seed=settings.seed, download_timeout=settings.data.download_timeout
    )
    data = prepare(settings.data.name, request, source=settings.data.source)
    tell(f"partition: {settings.clients.partition}, {len(data.dataset.y_N):,} samples of {data.dataset.name}")
    population = build_population(data.dataset, settings)
    dealt, partition = population.notes, keep_population(population)
    meanings = label_meanings(settings, len(population.domains), population.num_classes)
    if len(set(population.domains)) > 1 or meanings is not None:
        data = apply_domains(data, population.domain_N, population.domains, meanings)
    population = open_population(partition, data.dataset.y_N)  # from the disk: what was built to deal can go
    common = common_expert(settings, data.dataset, data.fingerprint, population.public_ids, device, tell)
    table = _embeddings(data, population, common, device, tell)
    reads = expert_reads(settings.experts.model)
    store = SampleStore.of(data.dataset, population, table, torch.device("cpu"), reads)
    base = common.expert if stands_on_common(settings.experts.model) else None
    if base is not None or settings.evaluate.attack_eps:
        keep_weights(common)
    preparation = Preparation(
        settings=settings,
        data=data,
        population=population,
        partition=partition,
        common=common,
        table=table,
        store=store,
        spec=expert_spec(settings, store.in_shape, len(data.dataset.class_names), common=base),
        notes=(*dealt, *_common_notes(common)),
    )
    return preparation if not settings.clients.drift_round else _with_drift(preparation, device, tell)


def _with_drift(before: Preparation, device: torch.device, tell: Callable[[str], None]) -> Preparation:
    """Returns the preparation with the one that stands after the drift; the common expert is that of before."""
    settings = before.settings
    data = drifted(before.data, before.population, settings)
    population = open_population(before.partition, data.dataset.y_N)
    table = _embeddings(data, population, before.common, device, tell)
    reads = expert_reads(settings.experts.model)
    store = SampleStore.of(data.dataset, population, table, torch.device("cpu"), reads)
    return replace(before, drifted=replace(before, data=data, population=population, table=table, store=store))


def _embeddings(
    data: PreparedData, population: Population, common: CommonExpert, device: torch.device, tell: Callable[[str], None]
) -> EmbeddingTable:
    """Returns the common expert's embeddings of every sample, from the cache or computed now."""
    mean, std = (t.to(device) for t in channel_statistics(data.dataset.x_NCHW, population.public_ids))
    images = data.dataset.x_NCHW

    def compute() -> Iterable[Chunk]:
        tell(f"embeddings: the common expert looks at {len(images):,} samples, once")
        return forward_all(common.expert, images, mean, std, device)

    table = embedding_table(data.fingerprint, common.fingerprint, len(images), compute)
    if table.computed == 0:
        tell("embeddings: from the cache, none computed")
    return table


def _common_notes(common: CommonExpert) -> tuple[str, ...]:
    report = common.report
    if report.get("asked_accuracy", 0) > 0 and not report.get("reached", True):
        note = (
            f"The common expert was asked to reach {report['asked_accuracy']:.1%} and stopped at "
            f"{report['held_out_accuracy']:.1%} after {report['epochs']} epochs."
        )
        return (note,)
    return ()
