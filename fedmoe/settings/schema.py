"""The settings of a run as frozen dataclasses: name, type, default, range and one line of help each.

In TOML and on the command line the names are written with dashes: `clients.per-round`, `train.learning-rate`.
"""

from dataclasses import dataclass, field
from typing import Any

__all__ = [
    "ClientsSettings",
    "CommonExpertSettings",
    "DataSettings",
    "EvaluateSettings",
    "ExpertsSettings",
    "GateSettings",
    "Settings",
    "StrategySettings",
    "TrainSettings",
]


def setting(
    default: Any,
    text: str,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    below: float | None = None,
    choices: tuple[str, ...] = (),
) -> Any:
    """Returns a dataclass field: `low` and `high` are inclusive bounds, `above` and `below` exclusive ones."""
    bounds = {"help": text, "low": low, "high": high, "above": above, "below": below, "choices": choices}
    return field(default=default, metadata=bounds)


@dataclass(frozen=True)
class DataSettings:
    """Which samples there are."""

    name: str = setting("digits", "data set: a short name or 'module:Attribute'")
    root: str = setting("", "folder (or archive) with the data files; empty: fedmoe's own data folder")
    source: str = setting("", "empty or the data set's own name: that data or an error; 'auto': a stand-in if need be")
    public_samples: int = setting(1500, "training samples set aside for the common expert; no client holds them", low=1)
    download_timeout: float = setting(20.0, "seconds without an answer before a download is given up", above=0)


@dataclass(frozen=True)
class ClientsSettings:
    """Who holds the samples."""

    num: int = setting(100, "training clients, anchors among them", low=1)
    per_round: int = setting(10, "clients sampled in a round, anchors among them", low=1)
    anchors_per_round: int = setting(5, "anchor clients sampled in a round; 0: no client is an anchor", low=0)
    deal_anchors: bool = setting(
        True, "one client for each expert holds a single label group, or domain, and is known as its anchor"
    )
    matched_bytes: bool = setting(
        False, "methods other than FedJETs sample as many clients a round as FedJETs' traffic of experts pays for"
    )
    partition: str = setting("random-labels", "how labels fall on clients: a short name or 'module:Attribute'")
    labels_per_client: int = setting(4, "labels that a client holds (random-labels, aligned, pathological)", low=1)
    alpha: float = setting(0.1, "concentration of the Dirichlet partition", above=0)
    shards_per_client: int = setting(2, "shards that a client holds (shards)", low=1)
    domains: str = setting("identity,rotate90,rotate180,rotate270,negative", "transforms of the domain partitions")
    permute_labels: bool = setting(
        False, "concept shift: each domain but the first permutes the labels in its own way (domain partitions)"
    )
    drift_round: int = setting(0, "first round in which one group's samples have drifted; 0: none do", low=0)
    drift_group: int = setting(0, "the group that drifts: a label group by its expert, or a domain", low=0)
    drift: str = setting("labels", "what drifts: 'labels' (permuted in the group), or a transform of its images")
    unseen: int = setting(10, "clients that take no part in training", low=1)
    samples: int = setting(0, "training samples of a client at the most; 0: all that fall to it", low=0)
    timeout: float = setting(
        3600.0, "seconds that a node has for its work of one round before it counts as dead", above=0
    )
    min_completed: float = setting(0.5, "share of a round's clients that must give a usable update", low=0, high=1)

    @property
    def has_anchors(self) -> bool:
        """Returns whether anchors are dealt: some are asked for, and they are not to be found."""
        return self.deal_anchors and self.anchors_per_round > 0


@dataclass(frozen=True)
class CommonExpertSettings:
    """The pretrained, frozen network that gives the embeddings."""

    source: str = setting("public", "'public' (trained on the public split), a file, or 'torchvision:resnet18'")
    model: str = setting("", "backbone if trained on the public split; empty: the experts' own, or mlp if that is none")
    epochs: int = setting(20, "epochs on the public split at the most", low=0)
    accuracy: float = setting(0.0, "stop at this accuracy on held-out public samples; 0: epochs alone", low=0, high=1)
    learning_rate: float = setting(0.05, "of its SGD", above=0)
    batch_size: int = setting(64, "of its SGD", low=1)
    threads: int = setting(
        2, "torch threads that train it and compute its embeddings; another number changes the last bits", low=1
    )


@dataclass(frozen=True)
class GateSettings:
    """The network that ranks the experts on an embedding, and a table of arguments for each gate that has any."""

    name: str = setting("mlp", "gate: a short name or 'module:Attribute'")
    hidden: int = setting(64, "hidden units", low=1)
    arguments: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class ExpertsSettings:
    """The pool of experts, and a table of arguments for each backbone that has any."""

    num: int = setting(5, "experts in the pool (M)", low=1)
    top_k: int = setting(2, "experts that a normal or unseen client holds (K)", low=1)
    model: str = setting("mlp", "backbone: a short name or 'module:Attribute'")
    width: int = setting(0, "the backbone's width (units or channels); 0: its own default", low=0)
    norm: str = setting("group", "normalisation of convolutional backbones", choices=("group", "batch"))
    init: str = setting("random", "where experts start", choices=("random", "common"))
    arguments: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainSettings:
    """One client's work in a round."""

    epochs: int = setting(1, "passes over the client's samples", low=1)
    batch_size: int = setting(32, "samples a step", low=1)
    learning_rate: float = setting(0.01, "of the experts' SGD", above=0)
    momentum: float = setting(0.9, "of the experts' SGD", low=0, below=1)
    weight_decay: float = setting(0.0, "of the experts' SGD", low=0)
    nesterov: bool = setting(False, "Nesterov's momentum instead of the plain one")
    optimiser: str = setting(
        "sgd",
        "of experts and gate; AdamW takes momentum as beta 1; 'normalised' is SGD that divides each expert's gradient "
        "by the sum of its tensors' norms",
        choices=("sgd", "adamw", "normalised"),
    )
    gate_learning_rate: float = setting(0.05, "of the gate's SGD", above=0)
    gate_momentum: float = setting(0.9, "of the gate's SGD", low=0, below=1)
    logit_adjustment: bool = setting(False, "add the log of the client's label prior to the logits of its loss")
    augmentation: str = setting("none", "of training images, on the device", choices=("none", "crop-flip"))
    trainer: str = setting(
        "auto",
        "'loop': client after client; 'stacked': many as one program; 'auto': the faster one here, measured first",
        choices=("auto", "loop", "stacked"),
    )
    stack: int = setting(0, "clients that the stacked trainer trains at once; 0: measured, and as memory allows", low=0)
    compile: str = setting(
        "auto",
        "torch.compile for stacked steps; 'auto': tried where training takes over a minute and deterministic is false",
        choices=("auto", "on", "off"),
    )
    precision: str = setting("fp32", "of a client's forward and backward passes", choices=("fp32", "bf16"))
    layout: str = setting(
        "auto",
        "memory layout of images in the loop trainer; 'auto': the faster one here, measured first",
        choices=("auto", "contiguous", "channels-last"),
    )
    workers: int = setting(
        0, "processes that share a node's work; 0: one for each train.threads of its cores, one on a GPU", low=0
    )
    threads: int = setting(1, "torch threads of a worker; another number changes the last bits of a result", low=1)
    device: str = setting("auto", "'auto' (a GPU if there is one), 'cpu', 'cuda' or 'cuda:1'")


@dataclass(frozen=True)
class EvaluateSettings:
    """The zero-shot test on unseen clients."""

    every: int = setting(10, "rounds between two evaluations; the last round is always evaluated", low=1)
    ema: float = setting(0.0, "decay of the moving average that gets evaluated; 0: the last model", low=0, below=1)
    samples: int = setting(0, "test samples of an unseen client at the most; 0: all", low=0)
    seen: int = setting(
        0, "training clients that are tested too, each with what it keeps, on test samples like its own; 0: none", low=0
    )
    cold_start: str = setting(
        "", "numbers of samples, as '1,10,100': unseen clients are also tested with only so many at a time; empty: not"
    )
    common_vote: float = setting(
        0.0,
        "share of the common expert's probabilities in what every method predicts; best_expert has none",
        low=0,
        below=1,
    )
    doubt: float = setting(
        0.0,
        "share of answers that guarded label-prior correction takes to tell nothing, as 0.15; 0: no such correction",
        low=0,
        below=1,
    )
    attack_eps: float = setting(
        0.0,
        "unseen clients are also tested under attack: how far a pixel may move, as a share of its range; 0: not",
        low=0,
        high=1,
    )
    attack_step: float = setting(0.0, "how far it moves in a step, likewise; 0: a quarter of that", low=0, high=1)
    attack_steps: int = setting(10, "steps of the attack (PGD)", low=1)
    baselines: str = setting("", "strategies trained beside it on the same data, as 'fedavg,fedprox'")

    @property
    def cold_start_sizes(self) -> tuple[int, ...]:
        """Returns `cold_start` as numbers, ascending."""
        return tuple(sorted({int(part) for part in self.cold_start.split(",") if part.strip()}))


@dataclass(frozen=True)
class StrategySettings:
    """The strategy, and a table of arguments for each strategy that has any."""

    name: str = setting("fedjets", "strategy: a short name, 'module:Class' or '/path/file.py:Class'")
    arguments: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Settings:
    """All settings of one run."""

    simulation: str = setting("", "name of the simulation, for the records")
    seed: int = setting(0, "root of every random stream", low=0)
    num_server_rounds: int = setting(10, "rounds", low=1)
    deterministic: bool = setting(True, "sums that do not depend on how clients fall on nodes, to the last byte")
    output_dir: str = setting("", "absolute folder that gets the run folder; empty: ~/fedmoe-runs")
    resume: str = setting("", "absolute path of a run folder to go on with")
    checkpoint_every: int = setting(1, "rounds between two checkpoints; the last round always has one", low=1)
    data: DataSettings = field(default_factory=DataSettings)
    clients: ClientsSettings = field(default_factory=ClientsSettings)
    common_expert: CommonExpertSettings = field(default_factory=CommonExpertSettings)
    gate: GateSettings = field(default_factory=GateSettings)
    experts: ExpertsSettings = field(default_factory=ExpertsSettings)
    train: TrainSettings = field(default_factory=TrainSettings)
    evaluate: EvaluateSettings = field(default_factory=EvaluateSettings)
    strategy: StrategySettings = field(default_factory=StrategySettings)
