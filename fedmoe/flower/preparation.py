"""What stands before the first round: data, population, common expert, embeddings; each from its cache where it can."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from fedmoe.data.concept_shift import label_meanings
from fedmoe.data.content_cache import PreparedData
from fedmoe.data.contracts import LoadRequest
from fedmoe.data.drift import drifted
from fedmoe.data.embeddings import Chunk, EmbeddingTable, embedding_table
from fedmoe.data.population import Population, build_population
from fedmoe.data.population_cache import keep_population, open_population
from fedmoe.data.prepared import apply_domains, prepare
from fedmoe.errors import SettingsError
from fedmoe.federation.state import ServerState
from fedmoe.moe.construction import (
    build_expert,
    build_gate,
    expert_reads,
    expert_spec,
    gate_class,
    gate_spec,
    is_head_alone,
    stands_on_common,
)
from fedmoe.moe.expert import ExpertSpec
from fedmoe.moe.gate import Gate
from fedmoe.moe.vectors import Part, Vector, parts_of, to_vector
from fedmoe.seeding import derive_seed
from fedmoe.settings import Settings
from fedmoe.training.common_expert import CommonExpert, common_expert
from fedmoe.training.common_weights import keep_weights
from fedmoe.training.pretraining import forward_all
from fedmoe.training.sample_store import SampleStore, channel_statistics

__all__ = ["Preparation", "can_start_from", "prepare_run"]


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
        keep_weights(common.expert, common.fingerprint, common.report)
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
