"""The map's regimes and methods: how clients differ, how much an expert holds, how good the common expert is."""

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["METHODS", "REGIMES", "Part", "Regime", "Value", "guest_parts_of", "parts_of", "routed_terms"]

Value = bool | int | float | str

ALWAYS: Mapping[str, Value] = {
    "evaluate.every": 100,
    "evaluate.ema": 0.9,
    "evaluate.doubt": 0.15,
    "train.trainer": "stacked",
    "train.stack": 15,
}
ADJUSTED: Mapping[str, Value] = {"train.logit-adjustment": True}
TRANSFERS = 15  # experts that go to clients, and come back, in a round: of every method
LABELS, DOMAINS = "label skew", "domains"


@dataclass(frozen=True)
class Regime:
    """One row of the map.

    Attributes:
        title: as it is printed.
        kind: what the row is about: `shift`, `capacity` or `common expert`.
        settings: what makes it, over the simulation's own settings.
        groups: groups of clients that look different; 1: they differ by labels at the most. FedJETs is given one
            anchor a group, and one expert a client where there are several (a client lives in one), else K = 2 of 5.
    """

    title: str
    kind: str
    settings: Mapping[str, Value] = field(default_factory=dict)
    groups: int = 1


def labels(partition: str, **more: Value) -> dict[str, Value]:
    """Returns the settings of a partition by labels."""
    own: dict[str, Value] = {f"clients.{name}": value for name, value in more.items()}
    return {"clients.partition": partition, "clients.unseen": 10, **own}


def domains(held: int = 0, **more: Value) -> dict[str, Value]:
    """Returns the settings of clients that live in one domain each, with so many labels (0: all)."""
    skew: dict[str, Value] = {"clients.partition": "domain-labels", "clients.labels-per-client": held}
    own = skew if held else {"clients.partition": "domain"}
    return {**own, "clients.unseen": 10, **{f"clients.{name}": value for name, value in more.items()}}


ALIKE = ",".join(["identity"] * 5)
TURNED = {"permute-labels": True}
SOURCES: Mapping[str, Value] = {"data.name": "three_sources"}
HEADS: Mapping[str, Value] = {"experts.model": "head", "common-expert.model": "mlp"}
# One client after the other, channels last: where weights are convolutions that takes half to nine tenths of the time.
CONVOLUTIONS: Mapping[str, Value] = {"train.trainer": "loop", "train.layout": "channels-last"}
CNN: Mapping[str, Value] = {"experts.model": "cnn", **CONVOLUTIONS}
RESNET: Mapping[str, Value] = {
    "experts.model": "resnet8",
    "experts.width": 8,
    "num-server-rounds": 40,
    "evaluate.every": 40,
    **CONVOLUTIONS,
}
RANDOM, ROTATED = labels("random-labels"), domains(held=4)

REGIMES: Mapping[str, Regime] = {
    "iid": Regime("no shift (IID)", "shift", labels("iid")),
    "dirichlet": Regime("labels: Dirichlet 0.1", "shift", labels("dirichlet")),
    "random-4": Regime("labels: 4 at random", "shift", RANDOM),
    "random-2": Regime("labels: 2 at random", "shift", labels("random-labels", **{"labels-per-client": 2})),
    "aligned": Regime("labels: unions of anchor groups", "shift", {"clients.unseen": 3}),
    "concept": Regime("meaning: 5 hidden groups", "shift", domains(domains=ALIKE, **TURNED), groups=5),
    "rotated": Regime("look: rotations, negative", "shift", domains(), groups=5),
    "rotated-4": Regime("look x 4 labels", "shift", ROTATED, groups=5),
    "rotated-2": Regime("look x 2 labels", "shift", domains(held=2), groups=5),
    "rotated-4-concept": Regime("look x 4 labels x meaning", "shift", domains(held=4, **TURNED), groups=5),
    "blurred-4": Regime("sharp or blurred x 4 labels", "shift", domains(held=4, domains="identity,blur"), groups=2),
    "sources": Regime("three data sets", "shift", {**SOURCES, **domains()}, groups=3),
    "sources-4": Regime("three data sets x 4 labels", "shift", {**SOURCES, **domains(held=4)}, groups=3),
    "random-4-small": Regime("labels, 16 units", "capacity", {**RANDOM, "experts.width": 16}),
    "rotated-4-small": Regime("look x labels, 16 units", "capacity", {**ROTATED, "experts.width": 16}, groups=5),
    "random-4-heads": Regime("labels, heads", "capacity", {**RANDOM, **HEADS}),
    "rotated-4-heads": Regime("look x labels, heads", "capacity", {**ROTATED, **HEADS}, groups=5),
    "random-4-cnn": Regime("labels, CNN", "capacity", {**RANDOM, **CNN}),
    "rotated-4-cnn": Regime("look x labels, CNN", "capacity", {**ROTATED, **CNN}, groups=5),
    "random-4-resnet8": Regime("labels, ResNet-8", "capacity", {**RANDOM, **RESNET}),
    "rotated-4-resnet8": Regime("look x labels, ResNet-8", "capacity", {**ROTATED, **RESNET}, groups=5),
    "random-4-weak": Regime("labels, 200 public", "common expert", {**RANDOM, "data.public-samples": 200}),
    "rotated-4-weak": Regime(
        "look x labels, 200 public", "common expert", {**ROTATED, "data.public-samples": 200}, groups=5
    ),
    "random-4-strong": Regime("labels, 10,000 public", "common expert", {**RANDOM, "data.public-samples": 10_000}),
    "rotated-4-strong": Regime(
        "look x labels, 10,000 public", "common expert", {**ROTATED, "data.public-samples": 10_000}, groups=5
    ),
}

METHODS: Mapping[str, str] = {
    "common": "common expert",
    "fedavg": "FedAvg + LA",
    "fedjets": "FedJETs",
    "fedjets-la": "FedJETs + LA",
    "fedprints": "FedPrints",
}


@dataclass(frozen=True)
class Part:
    """One run of a regime and a seed.

    Attributes:
        name: of its folder.
        settings: all that it sets.
        methods: strategy of the run -> method of the map.
        start: where FedJETs' experts start, if it is not told already by the method.
    """

    name: str
    settings: Mapping[str, Value]
    methods: Mapping[str, str]
    start: str = "random"


def routed_terms(regime: Regime, seed: int, fashion: str, cifar: str) -> dict[str, Value]:
    """Returns FedJETs' settings in a regime, by which everybody's bytes are dealt.

    Each method moves 15 experts a round: FedJETs sends two to a normal client where it has to tell label groups, one
    where clients live in one domain each.

    Args:
        regime: which.
        seed: of all runs.
        fashion: `data.root` of Fashion-MNIST.
        cifar: `data.root` of CIFAR-10's pictures.
    """
    whole = regime.settings.get("data.name") == "three_sources"
    base = {**ALWAYS, **regime.settings, "seed": seed, "data.root": cifar if whole else fashion}
    experts = regime.groups if regime.groups > 1 else 5
    base |= {"experts.num": experts, "clients.anchors-per-round": experts, "evaluate.baselines": ""}
    if regime.groups > 1:
        return {**base, "experts.top-k": 1, "clients.per-round": TRANSFERS}
    return {**base, "experts.top-k": 2, "clients.per-round": experts + (TRANSFERS - experts) // 2}


def parts_of(regime: Regime, seed: int, fashion: str, cifar: str) -> list[Part]:
    """Returns the runs that give all methods of a regime: those that share all settings are trained in one.

    FedJETs is trained from random experts and from the common expert. For the arguments: `routed_terms`.
    """
    routed = routed_terms(regime, seed, fashion, cifar)
    many = {**routed, **ADJUSTED, "clients.per-round": TRANSFERS, "experts.top-k": 1}
    ours = {**many, "strategy.name": "fedprints", "evaluate.baselines": "fedavg"}
    one = {"fedprints": "fedprints", "fedavg": "fedavg"}
    plain: dict[str, Value] = {**routed, "strategy.name": "fedjets"}
    parts = [Part("fedjets", plain, {"fedjets": "fedjets"})]
    if regime.groups > 1:  # equal settings: trained in the same run
        shared = Part("fedprints", {**ours, "evaluate.baselines": "fedavg,fedjets"}, {**one, "fedjets": "fedjets-la"})
        parts = [shared, *parts]
    else:
        parts = [
            Part("fedprints", ours, one),
            Part("fedjets-la", {**plain, **ADJUSTED}, {"fedjets": "fedjets-la"}),
            *parts,
        ]
    common: dict[str, Value] = {**plain, "experts.init": "common"}
    return [
        *parts,
        Part("fedjets-common", common, {"fedjets": "fedjets"}, "common"),
        Part("fedjets-la-common", {**common, **ADJUSTED}, {"fedjets": "fedjets-la"}, "common"),
    ]


def guest_parts_of(regime: Regime, seed: int, fashion: str, cifar: str, guests: Mapping[str, str]) -> list[Part]:
    """Returns the runs of strategies that are not the map's own, with logit adjustment, at FedJETs' bytes.

    Args:
        regime: which.
        seed: of all runs.
        fashion: `data.root` of Fashion-MNIST.
        cifar: `data.root` of CIFAR-10's pictures.
        guests: name -> reference. They train as many clients a round as the bytes pay for.
    """
    terms = {**routed_terms(regime, seed, fashion, cifar), **ADJUSTED, "clients.matched-bytes": True}
    return [Part(f"guest-{name}", {**terms, "strategy.name": at}, {name: name}) for name, at in guests.items()]
