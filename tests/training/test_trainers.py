"""Law 2: the stacked trainer gives the loop trainer's updates, but for rounding: every objective, ragged clients."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from dataclasses import field as attribute
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from fedmoe.federation.job import ClientFailure, ClientJob, ClientUpdate, Term, Turn
from fedmoe.federation.state import ServerState
from fedmoe.flower.preparation import prepare_run
from fedmoe.moe.construction import build_expert, build_gate, gate_class, gate_spec
from fedmoe.references import known_names
from fedmoe.training import job_kind, stacked
from fedmoe.training.job_kind import examine
from fedmoe.training.loop import LoopTrainer
from fedmoe.training.objective import Batch, LocalModel
from fedmoe.training.stacked import StackedTrainer
from fedmoe.training.trainer import LocalTrainer, Workplace
from tests.small import small_settings

TOLERANCE = 5e-6  # of any weight, after a few steps in float32; weights are of the order of 1
CLIENTS = range(12)


@dataclass(frozen=True)
class Row:
    """A job, and the settings it is tried with."""

    terms: tuple[Term, ...]
    held: int = 2
    gate: bool = True
    settings: dict[str, Any] = attribute(default_factory=dict)
    job: dict[str, Any] = attribute(default_factory=dict)  # what else the job says


MIXTURE = Term("mixture")
TERM = "tests.training.test_trainers:Weighted"
LOW_RANK = {"experts.model": "low_rank", "common-expert.model": "mlp", "experts.low_rank.rank": 2}
ROUTER = {"gate.name": "conv_router", "gate.conv_router.channels": 3}
ATTACK = {"eps": 0.1, "step": 0.06, "steps": 2}
HEADS = {"experts.model": "head", "common-expert.model": "mlp"}
BEST = {"experts.model": "best_response", "common-expert.model": "mlp"}
ROWS: dict[str, Row] = {
    "dense": Row((Term("dense"),), held=1, gate=False),
    "dense, which leaves out one of two": Row((Term("dense"),), settings={"train.weight-decay": 0.1}),
    "anchor": Row((Term("anchor"),), held=1),
    "anchor with gate labels": Row((Term("anchor", {"gate_labels": True}),), held=1),
    "mixture": Row((MIXTURE,)),
    "mixture of logits over the pool": Row((Term("mixture", {"output": "logit", "renormalise": False}),), held=3),
    "mixture and prox": Row((MIXTURE, Term("prox", {"mu": 0.5}))),
    "dense and prox": Row((Term("dense"), Term("prox", {"mu": 0.5})), held=1, gate=False),
    "Nesterov, weight decay, three epochs": Row(
        (MIXTURE,), settings={"train.nesterov": True, "train.weight-decay": 0.01, "train.epochs": 3}
    ),
    "low rank": Row((MIXTURE,), settings=LOW_RANK),
    "low rank, which anchors train": Row((Term("anchor"),), held=1, settings=LOW_RANK),
    "AdamW": Row((MIXTURE,), settings={"train.optimiser": "adamw", "train.weight-decay": 0.01, "train.epochs": 2}),
    "normalised gradients": Row(
        (MIXTURE,), held=3, settings={"train.optimiser": "normalised", "train.epochs": 2, "train.weight-decay": 0.01}
    ),
    "normalised gradients, patches": Row(
        (MIXTURE,), settings={"train.optimiser": "normalised", "experts.model": "patch_cubic", "train.epochs": 3}
    ),
    "normalised gradients, one of two left out": Row((Term("dense"),), settings={"train.optimiser": "normalised"}),
    "augmentation": Row((MIXTURE,), settings={"train.augmentation": "crop-flip", "train.epochs": 2}),
    "logit adjustment": Row((MIXTURE,), settings={"train.logit-adjustment": True}),
    "random gate": Row((MIXTURE,), settings={"gate.name": "random"}),
    "oracle gate": Row((MIXTURE,), settings={"gate.name": "oracle"}),
    "frozen gate": Row((MIXTURE,), settings={"gate.name": "frozen"}),
    "control": Row(
        (Term("dense"), Term("control")), held=1, gate=False, job={"memory": ("control",), "shared": ("control",)}
    ),
    "control of gate and experts, Nesterov": Row(
        (MIXTURE, Term("control")),
        settings={"train.nesterov": True, "train.epochs": 2},
        job={"memory": ("control",), "shared": ("control",)},
    ),
    "heads alone": Row((MIXTURE,), job={"trains": ("head",)}),
    "bodies and gate, private heads": Row((MIXTURE,), job={"trains": ("body", "gate"), "private": ("head",)}),
    "all private, and prox": Row(
        (MIXTURE, Term("prox", {"mu": 0.5})), job={"private": ("body", "head", "gate"), "sends": False}
    ),
    "experts and gate in turn": Row(
        (),
        settings={"train.epochs": 2, "train.weight-decay": 0.1},
        job={
            "turns": (Turn(objective=(MIXTURE,), trains=("body", "head")), Turn(objective=(MIXTURE,), trains=("gate",)))
        },
    ),
    "heads on a validation split, biases left out": Row(
        (),
        gate=False,
        settings={"train.epochs": 3},
        job={
            "turns": (
                Turn(objective=(Term("dense"),), trains=("body", "-*.bias"), part="training"),
                Turn(objective=(Term("dense"), Term("prox", {"mu": 0.5})), trains=("head*",), part="validation"),
            )
        },
        held=1,
    ),
    "mixture and importance": Row((MIXTURE, Term("importance", {"weight": 0.1})), held=3),
    "mixture and load": Row((MIXTURE, Term("load", {"weight": 0.1})), held=3),
    "mixture and switch": Row((MIXTURE, Term("switch", {"weight": 0.1})), held=3),
    "mixture and TRADES": Row((MIXTURE, Term("trades", ATTACK)), settings=ROUTER),
    "mixture and TRADES of the routing too": Row(
        (MIXTURE, Term("trades", {**ATTACK, "routing": 2.0, "output": "logit"})), held=3, settings=ROUTER
    ),
    "mixture and TRADES, hard router": Row(
        (MIXTURE, Term("trades", {**ATTACK, "routing": 2.0})), held=3, settings=ROUTER | {"gate.conv_router.hard": True}
    ),
    "mixture and TRADES, noisy top-1": Row((MIXTURE, Term("trades", ATTACK)), settings={"gate.name": "noisy_top1"}),
    "anchor and TRADES, CNN": Row(
        (Term("anchor"), Term("trades", {**ATTACK, "routing": 2.0})),
        held=1,
        settings=ROUTER | {"experts.model": "cnn", "experts.width": 2, "clients.samples": 20},
    ),
    "dense and TRADES": Row((Term("dense"), Term("trades", ATTACK)), held=1, gate=False),
    "TRADES with a gate on embeddings": Row((MIXTURE, Term("trades", ATTACK))),
    "the client's own numbers": Row((Term(TERM),), gate=False),
    "likelihood in the client's shares": Row((Term("likelihood"),), gate=False),
    "likelihood and control": Row(
        (Term("likelihood"), Term("control")),
        gate=False,
        job={"memory": ("control",), "shared": ("control",), "pooled": (0, 3)},
    ),
    "L1 on gate and experts": Row((MIXTURE,), settings={"train.epochs": 2}, job={"shrink": 0.05, "shrink_gate": 0.02}),
    "L1 on heads, AdamW": Row(
        (MIXTURE,), settings={"train.optimiser": "adamw"}, job={"shrink": 0.2, "trains": ("head",)}
    ),
    "L1, experts and gate in turn": Row(
        (),
        job={
            "shrink": 0.05,
            "shrink_gate": 0.1,
            "turns": (
                Turn(objective=(MIXTURE,), trains=("body", "head")),
                Turn(objective=(MIXTURE,), trains=("gate",)),
            ),
        },
    ),
    "canonical gate": Row((MIXTURE,), settings={"train.optimiser": "adamw"}, job={"canonical": True}),
    "L1 on a CNN": Row((MIXTURE,), settings={"experts.model": "cnn", "experts.width": 2}, job={"shrink": 0.05}),
    "CNN": Row((MIXTURE,), settings={"experts.model": "cnn", "experts.width": 2}),
    "NiNformer": Row((MIXTURE,), settings={"experts.model": "ninformer", "experts.width": 4, "clients.samples": 20}),
    "ReLA": Row((MIXTURE,), settings={"experts.model": "rela", "experts.width": 8, "clients.samples": 20}),
    "expanded": Row((MIXTURE,), settings={"experts.model": "expanded"}),
    "expanded, private ranges and biases": Row(
        (MIXTURE,), settings={"experts.model": "expanded"}, job={"private": ("*.range", "body.*.bias")}
    ),
    "best response, drawn": Row((Term("drawn"),), held=1, gate=False, settings=BEST | {"train.epochs": 2}),
    "best response, two turns": Row(
        (),
        held=1,
        gate=False,
        settings=BEST,
        job={
            "private": ("hyper*",),
            "turns": (
                Turn(objective=(Term("drawn"),), trains=("body", "head", "-hyper*"), part="training"),
                Turn(objective=(Term("dense"),), trains=("hyper*",), part="validation"),
            ),
        },
    ),
    "heads": Row((MIXTURE,), settings=HEADS | {"train.epochs": 2}),
    "one head": Row((Term("dense"), Term("prox", {"mu": 0.5})), held=1, gate=False, settings=HEADS),
    "GroupNorm": Row((MIXTURE,), settings={"experts.model": "resnet8", "experts.width": 16, "clients.samples": 20}),
    "BatchNorm": Row(
        (MIXTURE,),
        settings={
            "experts.model": "resnet8",
            "experts.width": 4,
            "experts.norm": "batch",
            "clients.samples": 24,
            "train.batch-size": 24,
        },
    ),
}


@dataclass(frozen=True)
class Field:
    """A workplace, and what the server sends to it."""

    place: Workplace
    state: ServerState

    def jobs(self, row: Row, weighting: str = "examples") -> list[ClientJob]:
        pool = len(self.state.experts)
        return [
            ClientJob(
                client_id=client,
                round_num=3,
                experts=tuple((client + k) % pool for k in range(row.held)),
                objective=row.terms,
                gate=row.gate,
                weighting=weighting,
                given={"shares": (0.1 * client, 1.0)}
                if row.terms[:1] and row.terms[0].name in ("likelihood", TERM)
                else {},
                **row.job,
            )
            for client in CLIENTS
        ]


class Weighted:
    """The held experts' losses, weighted by the client's own numbers."""

    def __call__(self, model: LocalModel, batch: Batch) -> Tensor:
        logits_KBC = model.logits_KBC(batch.x_BCHW)
        losses_KB = torch.stack([cross_entropy(logits_BC, batch.y_B, reduction="none") for logits_BC in logits_KBC])
        return batch.mean((losses_KB * model.given["shares"][:, None]).sum(dim=0))


@pytest.fixture
def prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Field]]:
    monkeypatch.setenv("FEDMOE_HOME", str(tmp_path))
    torch.set_num_threads(1)

    kept: dict[int, dict[str, np.ndarray]] = {}

    def recall(job: ClientJob) -> dict[str, np.ndarray]:
        return kept.get(job.client_id, {})

    def prepare(row: Row, seed: int = 0) -> Field:
        settings = small_settings(
            seed=seed, **{k.replace(".", "__").replace("-", "_"): v for k, v in row.settings.items()}
        )
        preparation = prepare_run(settings, torch.device("cpu"), lambda text: None)
        width = preparation.store.gate_width(gate_class(settings.gate.name).reads, settings.experts.num)
        gate = gate_spec(settings, settings.gate.name, width, settings.experts.num, preparation.store.in_shape)
        resident = build_gate(settings.gate.name, gate, 0)
        place = Workplace(
            make_expert=lambda: build_expert(settings.experts.model, preparation.spec, 0),
            gate_for=lambda num_experts: resident,
            settings=settings.train,
            store=preparation.store,
            population=preparation.population,
            seed=settings.seed,
            recall=recall,
        )
        state = preparation.initial_state(settings.experts.num, True, "random")
        rng = np.random.default_rng(seed)

        def like(vector: np.ndarray) -> np.ndarray:
            return 0.1 * rng.standard_normal(vector.size).astype(np.float32)

        sent = state.to_arrays()
        for client in range(1, 11):  # the others have kept nothing yet
            kept[client] = {f"memory/control/{name}": like(vector) for name, vector in sent.items()}
            for name, vector in sent.items():
                pieces = {"gate": vector} if name == "gate" else {"body": vector[:-36], "head": vector[-36:]}
                kept[client] |= {f"private/{piece}/{name}": like(own) for piece, own in pieces.items()}
        return Field(place, replace(state, extras={f"control/{name}": like(vector) for name, vector in sent.items()}))

    return prepare


def updates_of(trainer: LocalTrainer, jobs: list[ClientJob], state: ServerState) -> dict[int, ClientUpdate]:
    outcomes = list(trainer.train(jobs, state))
    assert [o for o in outcomes if isinstance(o, ClientFailure)] == []
    return {o.client_id: o for o in outcomes if isinstance(o, ClientUpdate)}


def check_equal(
    one: dict[int, ClientUpdate], two: dict[int, ClientUpdate], tolerance: Mapping[int, float] | float = TOLERANCE
) -> None:
    assert sorted(one) == sorted(two)
    for client, update in one.items():
        other, allowed = two[client], tolerance if isinstance(tolerance, float) else tolerance[client]
        assert (update.num_examples, update.weight) == (other.num_examples, other.weight)
        assert update.metrics["loss"] == pytest.approx(other.metrics["loss"], rel=1e-4, abs=1e-6)
        for mine, theirs in ((update.vectors(), other.vectors()), (update.kept, other.kept)):
            assert mine.keys() == theirs.keys()
            for name, vector in mine.items():
                assert vector.dtype == theirs[name].dtype == np.float32
                # a control variate is a difference of weights over how far the steps reach: 0.05 a step and more
                atol = allowed * (20 if "control" in name else 1)
                np.testing.assert_allclose(vector, theirs[name], rtol=0, atol=atol, err_msg=f"{client} {name}")


def shaken(field: Field, jobs: list[ClientJob], loop: dict[int, ClientUpdate]) -> dict[int, float]:
    """Returns how far the loop itself carries each client when half of the weights start at the next greater number."""
    furthest = dict.fromkeys(loop, 0.0)
    for seed in range(4):
        stream = np.random.default_rng(seed)
        experts = [
            np.where(stream.random(own.size) < 0.5, np.nextafter(own, np.float32(np.inf)), own)
            for own in field.state.experts
        ]
        for client, update in updates_of(LoopTrainer(field.place), jobs, replace(field.state, experts=experts)).items():
            apart = [float(np.abs(v - loop[client].vectors()[name]).max()) for name, v in update.vectors().items()]
            furthest[client] = max(furthest[client], *apart)
    return furthest


def test_every_objective_is_tried() -> None:
    of_turns = [term for row in ROWS.values() for turn in row.job.get("turns", ()) for term in turn.objective]
    tried = {term.name for term in [*of_turns, *(term for row in ROWS.values() for term in row.terms)]}
    assert sorted(name for name in tried if ":" not in name) == known_names("fedmoe.training.objectives")


CHEAP = [name for name, row in ROWS.items() if "resnet8" not in row.settings.values()]


TOUCHY = (  # a client of theirs multiplies a last bit: ReLA's norm divides by next to nothing where none is looked at
    ("dense and TRADES", 2),
    ("ReLA", 2),
)


@pytest.mark.parametrize(
    ("name", "seed"), [*((name, seed) for name in ROWS for seed in (0, 1)), *((name, 2) for name in CHEAP)]
)
def test_stacked_clients_come_out_as_in_the_loop(prepared: Callable[..., Field], name: str, seed: int) -> None:
    field = prepared(ROWS[name], seed)
    jobs = field.jobs(ROWS[name])
    sizes = {len(field.place.population.shards[client]) % field.place.settings.batch_size for client in CLIENTS}
    assert len(sizes) > 3 or "clients.samples" in ROWS[name].settings, "the clients must be ragged"
    loop = updates_of(LoopTrainer(field.place), jobs, field.state)
    tolerance: Mapping[int, float] | float = TOLERANCE
    if (name, seed) in TOUCHY:
        tolerance = {client: max(TOLERANCE, 3 * apart) for client, apart in shaken(field, jobs, loop).items()}
        assert max(tolerance.values()) > TOLERANCE, "it is not touchy any more"
    check_equal(loop, updates_of(StackedTrainer(field.place), jobs, field.state), tolerance)
    ends = {client: {**update.vectors(), **update.kept} for client, update in loop.items()}
    moved = [
        any(
            not np.array_equal(
                ends[j.client_id].get(name := f"expert/{i}", ends[j.client_id].get(f"private/head/{name}")),
                field.state.experts[i],
            )
            for i in j.experts
        )
        for j in jobs
    ]
    assert sum(moved) > 6, "a client of one label may have nothing to learn, but not most of them"


def test_both_trainers_make_the_same_exact_zeros(prepared: Callable[..., Field]) -> None:
    field = prepared(row := ROWS["L1 on gate and experts"])
    loop, zeros = updates_of(LoopTrainer(field.place), field.jobs(row), field.state), 0
    for client, update in updates_of(StackedTrainer(field.place), field.jobs(row), field.state).items():
        for part, vector in update.vectors().items():
            apart = (vector == 0) != (loop[client].vectors()[part] == 0)
            assert apart.sum() <= 1, "one that stands within rounding of the edge may fall to either side"
            zeros += int((vector == 0).sum())
    assert zeros > 100


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    "name", ["mixture", "dense", "heads", "GroupNorm", "normalised gradients", "L1 on gate and experts"]
)
def test_who_else_is_in_the_stack_changes_no_bit(prepared: Callable[..., Field], name: str, threads: int) -> None:
    field = prepared(ROWS[name])
    torch.set_num_threads(threads)
    jobs = field.jobs(ROWS[name])
    whole = updates_of(StackedTrainer(field.place), jobs, field.state)
    for width in (1, 5):
        parts = updates_of(StackedTrainer(field.place, width=width), jobs[::-1], field.state)
        for client, update in parts.items():
            for part, vector in update.vectors().items():
                assert vector.tobytes() == whole[client].vectors()[part].tobytes(), (width, client, part)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch compiles with the machine's C++ compiler")
@pytest.mark.filterwarnings("default")  # torch's compiler warns of what it is going to change itself
@pytest.mark.parametrize("name", ["mixture and prox", "anchor", "control of gate and experts, Nesterov"])
def test_compiled_steps_come_out_as_in_the_loop(prepared: Callable[..., Field], name: str) -> None:
    field = prepared(ROWS[name])
    jobs = field.jobs(ROWS[name])
    trainer = StackedTrainer(field.place, compiled=True)
    compiled = updates_of(trainer, jobs, field.state)
    assert trainer.compiled, "where torch cannot compile, steps are taken without, and the result is the same"
    check_equal(updates_of(LoopTrainer(field.place), jobs, field.state), compiled)
    apart = updates_of(StackedTrainer(field.place, width=3, compiled=True), jobs, field.state)
    check_equal(compiled, apart)  # not bit for bit: hence the rule that compiling needs deterministic=false


def test_jobs_of_several_kinds_and_rounds_share_the_buffers(prepared: Callable[..., Field]) -> None:
    field = prepared(ROWS["mixture"])
    trainer, loop = StackedTrainer(field.place), LoopTrainer(field.place)
    mixed = [*field.jobs(ROWS["mixture"])[:5], *field.jobs(ROWS["anchor"])[5:8], *field.jobs(ROWS["dense"])[8:]]
    for jobs in (mixed, mixed[3:9], field.jobs(ROWS["mixture"])):
        check_equal(updates_of(loop, jobs, field.state), updates_of(trainer, jobs, field.state))


def test_an_update_is_not_overwritten_by_the_next_stack(prepared: Callable[..., Field]) -> None:
    field = prepared(ROWS["mixture"])
    jobs = field.jobs(ROWS["mixture"])
    kept = updates_of(StackedTrainer(field.place, width=3), jobs, field.state)
    check_equal(updates_of(LoopTrainer(field.place), jobs, field.state), kept)


def test_bf16_comes_near_float32(prepared: Callable[..., Field]) -> None:
    row = Row((MIXTURE,), settings={"train.precision": "bf16"})
    field = prepared(row)
    exact = prepared(ROWS["mixture"])
    jobs = field.jobs(row)
    for trainer in (LoopTrainer(field.place), StackedTrainer(field.place)):
        got = updates_of(trainer, jobs, field.state)
        wanted = updates_of(LoopTrainer(exact.place), jobs, exact.state)
        check = {
            n: float(np.abs(v - wanted[c].vectors()[n]).max()) for c, u in got.items() for n, v in u.vectors().items()
        }
        assert 1e-5 < max(check.values()) < 0.02


# ---- what cannot be filled up --------------------------------------------------------------------


class OwnMean:
    """An objective that averages in its own way: rows that fill a batch up would count."""

    def __call__(self, model: LocalModel, batch: Batch) -> Tensor:
        return cross_entropy(model.logits_KBC(batch.x_BCHW)[0], batch.y_B)


@pytest.mark.parametrize("term", [Term("tests.training.test_trainers:OwnMean")])
def test_an_objective_that_averages_in_its_own_way_is_noticed(prepared: Callable[..., Field], term: Term) -> None:
    row = Row((term,), held=1, gate=False)
    field = prepared(row)
    jobs = field.jobs(row)
    assert not examine(field.place, jobs[0], field.state).can_fill
    check_equal(
        updates_of(LoopTrainer(field.place), jobs, field.state),
        updates_of(StackedTrainer(field.place), jobs, field.state),
    )


@pytest.mark.parametrize(
    ("error", "tells"),
    [
        (ValueError("Expected more than 1 value per channel"), True),
        (RuntimeError("selected index k out of range"), True),
        (torch.OutOfMemoryError("CUDA out of memory"), False),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), False),
    ],
)
def test_memory_that_runs_out_says_nothing_of_a_kind(
    prepared: Callable[..., Field], monkeypatch: pytest.MonkeyPatch, error: Exception, tells: bool
) -> None:
    field, real = prepared(ROWS["mixture"]), job_kind.gradient
    asked = field.place, field.jobs(ROWS["mixture"])[0], field.state

    def gradient(stack: Any, batch: Any) -> Tensor:
        if batch.weight is None:  # the second pass, over a few rows alone
            raise error
        return real(stack, batch)

    monkeypatch.setattr(job_kind, "gradient", gradient)
    if tells:
        assert not examine(*asked).can_fill
    else:
        with pytest.raises(type(error)):
            examine(*asked)


@pytest.mark.parametrize("name", ROWS)
def test_what_can_be_filled_up_is_known(prepared: Callable[..., Field], name: str) -> None:
    field = prepared(ROWS[name])
    kind = examine(field.place, field.jobs(ROWS[name])[0], field.state)
    assert kind.can_fill == (name != "BatchNorm")
    assert kind.client_bytes > 0


# ---- memory, and failures ------------------------------------------------------------------------


def test_out_of_memory_halves_the_stack_and_goes_on(
    prepared: Callable[..., Field], monkeypatch: pytest.MonkeyPatch
) -> None:
    field = prepared(ROWS["mixture"])
    jobs, real, seen = field.jobs(ROWS["mixture"]), stacked.train_stack, []

    def small(where: Any, buffers: Any, some: list[ClientJob], *rest: Any) -> Any:
        seen.append(len(some))
        if len(some) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(where, buffers, some, *rest)

    monkeypatch.setattr(stacked, "train_stack", small)
    trainer = StackedTrainer(field.place)
    check_equal(updates_of(LoopTrainer(field.place), jobs, field.state), updates_of(trainer, jobs, field.state))
    assert seen[:3] == [12, 6, 3]
    assert set(trainer.widths.values()) == {3}
    seen.clear()
    updates_of(trainer, jobs, field.state)
    assert seen == [3, 3, 3, 3], "once is enough"


def test_one_client_too_large_for_the_memory_does_not_narrow_the_others(
    prepared: Callable[..., Field], monkeypatch: pytest.MonkeyPatch
) -> None:
    field = prepared(ROWS["mixture"])

    def small(*arguments: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(stacked, "train_stack", small)
    trainer = StackedTrainer(field.place)
    outcomes = list(trainer.train(field.jobs(ROWS["mixture"])[:1], field.state))
    assert [type(outcome) for outcome in outcomes] == [ClientFailure]
    assert trainer.widths == {}


def test_what_can_be_filled_up_does_not_depend_on_who_came_first(prepared: Callable[..., Field]) -> None:
    field = prepared(ROWS["mixture"])
    tiny = replace(
        field.place.population,
        shards=tuple(s[:1] if c == 3 else s for c, s in enumerate(field.place.population.shards)),
    )
    place = replace(field.place, population=tiny)
    jobs = field.jobs(ROWS["mixture"])
    trainer = StackedTrainer(place)
    updates_of(trainer, [jobs[3]], field.state)
    check_equal(updates_of(StackedTrainer(place), jobs, field.state), updates_of(trainer, jobs, field.state), 0.0)
    own = Row((Term("tests.training.test_trainers:OwnMean"),), held=1, gate=False)
    assert not examine(place, field.jobs(own)[3], field.state).can_fill, "one sample is enough to notice"


def test_the_width_follows_the_free_memory(prepared: Callable[..., Field], monkeypatch: pytest.MonkeyPatch) -> None:
    field = prepared(ROWS["mixture"])
    jobs, real, seen = field.jobs(ROWS["mixture"]), stacked.train_stack, []

    def watched(where: Any, buffers: Any, some: list[ClientJob], *rest: Any) -> Any:
        seen.append(len(some))
        return real(where, buffers, some, *rest)

    need = examine(field.place, jobs[0], field.state).client_bytes
    monkeypatch.setattr(stacked, "train_stack", watched)
    monkeypatch.setattr(stacked, "free_bytes", lambda device: 9 * need)
    updates_of(StackedTrainer(field.place), jobs, field.state)
    assert max(seen) <= 4
    assert sum(seen) == 12


def test_one_client_that_fails_does_not_take_its_stack_with_it(
    prepared: Callable[..., Field], monkeypatch: pytest.MonkeyPatch
) -> None:
    field = prepared(ROWS["mixture"])
    jobs, loop = field.jobs(ROWS["mixture"]), LoopTrainer(field.place)
    wanted = updates_of(loop, jobs, field.state)
    real = stacked.train_stack

    def one_fails(where: Any, buffers: Any, some: list[ClientJob], *rest: Any) -> Any:
        if any(job.client_id == 7 for job in some):
            raise OSError("client 7's disk is gone")
        return real(where, buffers, some, *rest)

    monkeypatch.setattr(stacked, "train_stack", one_fails)
    outcomes = list(StackedTrainer(field.place).train(jobs, field.state))
    (failure,) = [outcome for outcome in outcomes if isinstance(outcome, ClientFailure)]
    assert (failure.client_id, failure.round_num, failure.error) == (7, 3, "OSError: client 7's disk is gone")
    others = {outcome.client_id: outcome for outcome in outcomes if isinstance(outcome, ClientUpdate)}
    check_equal({c: u for c, u in wanted.items() if c != 7}, others)


@pytest.mark.parametrize("trainer", [LoopTrainer, StackedTrainer])
def test_a_client_whose_weights_diverge_is_a_failure(prepared: Callable[..., Field], trainer: Any) -> None:
    row = Row((Term("tests.faulty:Fault", {"kind": "nan"}),))
    field = prepared(row)
    outcomes = list(trainer(field.place).train(field.jobs(row)[:3], field.state))
    assert all(isinstance(outcome, ClientFailure) and "NaN" in outcome.error for outcome in outcomes)
    assert len(outcomes) == 3


@pytest.mark.parametrize("kind", [LoopTrainer, StackedTrainer])
def test_what_does_not_move_in_a_turn_is_not_shrunk(
    prepared: Callable[..., Field], kind: type[LoopTrainer] | type[StackedTrainer]
) -> None:
    experts = Turn(objective=(Term("dense"),), trains=("body", "head"))  # whose loss does not see the gate

    def after(*turns: Turn) -> dict[int, ClientUpdate]:
        row = Row((), held=1, job={"turns": turns, "shrink": 0.2, "shrink_gate": 0.2})
        field = prepared(row)
        return updates_of(kind(field.place), field.jobs(row), field.state)

    alone, both = after(experts), after(experts, Turn(objective=(MIXTURE,), trains=("gate",)))
    for client in CLIENTS:
        for expert_id, vector in alone[client].experts.items():
            np.testing.assert_allclose(both[client].experts[expert_id], vector, atol=1e-6)
    assert sum(int((vector == 0).sum()) for update in alone.values() for vector in update.experts.values()) > 50


# ---- turns ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("kind", [LoopTrainer, StackedTrainer])
def test_what_does_not_move_in_a_turn_does_not_learn_from_it(
    prepared: Callable[..., Field], kind: type[LoopTrainer] | type[StackedTrainer], seed: int
) -> None:
    experts, gate = ("body", "head"), ("gate",)

    def after(*trains: tuple[str, ...]) -> dict[int, ClientUpdate]:
        turns = tuple(Turn(objective=(MIXTURE,), trains=own) for own in trains)
        row = Row((), settings={"train.weight-decay": 0.1}, job={"turns": turns})
        field = prepared(row, seed)
        return updates_of(kind(field.place), field.jobs(row), field.state)

    of_experts, of_gate, both = after(experts), after(gate), after(experts, gate)
    field = prepared(ROWS["mixture"], seed)
    for client in CLIENTS:
        assert of_experts[client].gate.tobytes() == field.state.gate.tobytes()
        assert all(v.tobytes() == field.state.experts[i].tobytes() for i, v in of_gate[client].experts.items())
        # each learns in its own turn, and the gate's loss is that of experts that have just moved
        assert not np.array_equal(both[client].gate, of_gate[client].gate)
        assert not np.array_equal(both[client].gate, field.state.gate)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_one_turn_is_a_job_without_turns(prepared: Callable[..., Field], seed: int) -> None:
    field = prepared(ROWS["mixture"], seed)
    row = Row((), job={"turns": (Turn(objective=(MIXTURE,)),)})
    plain = updates_of(LoopTrainer(field.place), field.jobs(ROWS["mixture"]), field.state)
    turned = updates_of(LoopTrainer(field.place), field.jobs(row), field.state)
    for client, update in plain.items():
        assert {n: v.tobytes() for n, v in update.vectors().items()} == {
            n: v.tobytes() for n, v in turned[client].vectors().items()
        }


class Seen:
    """A loss whose gradient by the heads' biases counts the samples of each class that it saw."""

    def __call__(self, model: LocalModel, batch: Batch) -> Tensor:
        wrong_B = cross_entropy(model.logits_KBC(batch.x_BCHW)[0], batch.y_B, reduction="none")
        weight_B = torch.ones_like(wrong_B) if batch.weight_B is None else batch.weight_B
        return batch.mean(wrong_B) * 0 + (weight_B * model.trained[0].sum()).sum()


@pytest.mark.parametrize("kind", [LoopTrainer, StackedTrainer])
def test_a_fifth_of_the_samples_validates_and_the_rest_trains(
    prepared: Callable[..., Field], kind: type[LoopTrainer] | type[StackedTrainer]
) -> None:
    """Without momentum a value moves by the rate times the number of samples that its loss saw."""
    term = Term("tests.training.test_trainers:Seen")

    def moved(part: str) -> dict[int, float]:
        row = Row(
            (),
            held=1,
            gate=False,
            settings={"train.momentum": 0.0, "train.learning-rate": 0.125},
            job={"turns": (Turn(objective=(term,), part=part),)},
        )
        field = prepared(row)
        jobs = field.jobs(row)
        ends = updates_of(kind(field.place), jobs, field.state)
        begun = {job.client_id: field.state.experts[job.experts[0]][0] for job in jobs}
        return {c: float(begun[c] - next(iter(u.experts.values()))[0]) / 0.125 for c, u in ends.items()}

    counts = {part: moved(part) for part in ("all", "training", "validation")}
    sizes = [len(prepared(ROWS["dense"]).place.population.shards[client]) for client in CLIENTS]
    for client, size in zip(CLIENTS, sizes, strict=True):
        assert counts["all"][client] == pytest.approx(size, abs=1e-3)
        assert counts["validation"][client] == pytest.approx(round(0.2 * size), abs=1e-3)
        assert counts["training"][client] == pytest.approx(size - round(0.2 * size), abs=1e-3)


def test_a_turn_on_a_part_of_the_samples_is_not_stacked_where_weights_are_not_looked_at(
    prepared: Callable[..., Field],
) -> None:
    row = Row(
        (),
        held=1,
        gate=False,
        job={"turns": (Turn(objective=(Term("tests.training.test_trainers:OwnMean"),), part="training"),)},
    )
    field = prepared(row)
    outcomes = list(StackedTrainer(field.place).train(field.jobs(row), field.state))
    assert all(isinstance(outcome, ClientFailure) and "batch.mean" in outcome.error for outcome in outcomes)
    assert len(updates_of(LoopTrainer(field.place), field.jobs(row), field.state)) == len(CLIENTS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective": (MIXTURE,)}, "a job with turns has its objective"),
        ({"trains": ("gate",)}, "a job with turns has its objective"),
        ({"memory": ("control",)}, "a job with turns has its objective"),
    ],
)
def test_a_job_with_turns_says_nothing_twice(changes: dict[str, Any], message: str) -> None:
    said = {"client_id": 0, "round_num": 1, "experts": (0,), "objective": (), "gate": True}
    with pytest.raises(ValueError, match=message):
        ClientJob(**(said | changes), turns=(Turn(objective=(MIXTURE,)),))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"part": "test"}, "must be one of all, training, validation, got 'test'"),
        ({"trains": "gate"}, "must be a tuple of names, got 'gate'"),
        ({"trains": ("gates",)}, r"must be of body, head, gate, or patterns with a \*, got 'gates'"),
    ],
)
def test_a_turn_of_nothing_that_there_is_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Turn(**({"objective": (MIXTURE,)} | changes))
