"""ReLA (arXiv 2104.07012): does attention without a softmax get sparse by itself, and what does it cost?

Two tasks: lookups, where each token that asks has one token to look at, or none; and digits cut into 16 patches. Three
attentions that differ by a few numbers: ReLU scores with the gated RMSNorm, softmax, and ReLU scores without the norm.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from benchmarks.theory.classification import Recipe, fit, num_parameters, score, seeded, task_of
from benchmarks.theory.experiment import Experiment, Figures, Results, main
from benchmarks.theory.lookup import TELLING, VALUES, Lookup, LookupNet, lookups, train_lookups
from fedmoe.moe.attention import AttentionBlock
from fedmoe.moe.experts.rela import ReLAExpert
from fedmoe.seeding import torch_stream

__all__ = ["EXPERIMENT", "aligned", "attended", "without_norm"]

FEATURES, HEADS = 32, 4
KINDS = {"ReLA": "relu", "softmax": "softmax", "ReLA without its norm": "relu"}
SMALL_STEPS, STEPS = 250, 600  # of the lookups, a batch of 64 each
EPOCHS = 20  # on the digits


def without_norm(net: nn.Module) -> None:
    """Takes the gated RMSNorm out of every attention of the network, in place."""
    for module in net.modules():
        if isinstance(module, AttentionBlock):
            module.attention.norm = nn.Identity()


@torch.no_grad()
def attended(blocks: nn.Sequential, tokens_BND: Tensor) -> list[Tensor]:
    """Returns weights_BHNN of every block."""
    weights: list[Tensor] = []
    for block in blocks:
        assert isinstance(block, AttentionBlock)
        weights.append(block.attention.weights(block.attention_norm(tokens_BND)))
        tokens_BND = block(tokens_BND)
    return weights


def sparsity(weights: Sequence[Tensor]) -> Mapping[str, float]:
    """Returns the percentages of weights that are 0, and of rows of nothing but zeros."""
    zeros = np.mean([float((weights_BHNN == 0).double().mean()) for weights_BHNN in weights])
    null = np.mean([float((weights_BHNN == 0).all(dim=-1).double().mean()) for weights_BHNN in weights])
    return {"zeros": 100 * float(zeros), "null rows": 100 * float(null)}


def aligned(weights_BHQN: Tensor, task: Lookup) -> float:
    """Returns how much of the attention goes to the token that has the key, in percent: the best head's mean.

    Rows of zeros, and tokens whose key nobody has, are left out.
    """
    there_B1Q = (task.answers_BQ < VALUES)[:, None]
    total_BHQ = weights_BHQN.sum(dim=-1)
    index_BHQ1 = task.places_BQ[:, None, :, None].expand(-1, weights_BHQN.shape[1], -1, -1)
    share_BHQ = weights_BHQN.gather(-1, index_BHQ1).squeeze(-1) / total_BHQ.clamp_min(1e-12)
    counts_BHQ = (there_B1Q & (total_BHQ > 0)).double()
    return 100 * float(((share_BHQ * counts_BHQ).sum((0, 2)) / counts_BHQ.sum((0, 2)).clamp_min(1)).max())


def lookup_figures(row: str, seed: int, small: bool) -> Figures:
    """Returns how well the lookups are learnt, and what the attention of the tokens that ask looks like."""
    net = seeded(lambda: LookupNet(FEATURES, 1, HEADS, KINDS[row]), seed)
    if row not in ("ReLA", "softmax"):
        without_norm(net)
    test = lookups(1000, torch_stream(seed, "lookups", "test"))
    first = sparsity([attended(net.blocks, net.tokens(test))[0][:, :, TELLING:]])
    train_lookups(net, SMALL_STEPS if small else STEPS, seed)
    with torch.no_grad():
        right = float((net(test).argmax(dim=2) == test.answers_BQ).double().mean())
    (weights_BHNN,) = attended(net.blocks, net.tokens(test))
    asking_BHQN = weights_BHNN[:, :, TELLING:]
    there_BQ = test.answers_BQ < VALUES
    null_BHQ = (asking_BHQN == 0).all(dim=-1).double()
    return {
        "lookup accuracy": 100 * right,
        "lookup zeros": sparsity([asking_BHQN])["zeros"],
        "lookup zeros at first": first["zeros"],
        "lookup aligned": aligned(asking_BHQN, test),
        "null, key there": 100 * float(null_BHQ.mean(dim=1)[there_BQ].mean()),
        "null, key absent": 100 * float(null_BHQ.mean(dim=1)[~there_BQ].mean()),
        "lookup parameters": num_parameters(net),
    }


def digit_figures(row: str, seed: int, small: bool) -> Figures:
    """Returns how well the digits are learnt, and how sparse the attention between their patches is."""
    task = task_of("digits")
    spec = replace(task.spec, width=FEATURES)
    expert = seeded(lambda: ReLAExpert(spec, attention=KINDS[row], heads=HEADS), seed)
    if row not in ("ReLA", "softmax"):
        without_norm(expert)

    def attention() -> Mapping[str, float]:
        with torch.no_grad():
            return sparsity(attended(expert.blocks, expert.patches(task.test_x_NCHW) + expert.positions))

    first = attention()
    fit(expert, task, Recipe(epochs=5 if small else EPOCHS), seed)
    found = {**score(expert, task), **attention(), "zeros at first": first["zeros"]}
    return {f"digits {name}": value for name, value in found.items()}


def measure(row: str, seed: int, small: bool) -> Figures:
    """Returns the figures of both tasks."""
    return {**lookup_figures(row, seed, small), **digit_figures(row, seed, small)}


def draw(results: Results, figure: Figure) -> None:
    """Draws accuracies, the share of zeros, and rows of zeros where there is something to look at and where not."""
    panels = (
        ("accuracy, %", {"lookups": "lookup accuracy", "digits": "digits accuracy"}),
        ("attention weights that are 0, %", {"lookups": "lookup zeros", "digits": "digits zeros"}),
        ("lookups: rows of zeros, %", {"key is there": "null, key there", "key is absent": "null, key absent"}),
    )
    for axes, (heading, groups) in zip(figure.subplots(1, 3), panels, strict=True):
        for offset, (row, runs) in enumerate(results.items()):
            for place, name in enumerate(groups.values()):
                values = [run[name] for run in runs]
                at = place + 0.27 * (offset - 1)
                axes.bar(at, np.mean(values), 0.25, color=f"C{offset}", label=row if place == 0 else None, alpha=0.75)
                axes.plot([at] * len(values), values, "k.", ms=3)
        axes.set_xticks(range(len(groups)), list(groups))
        axes.set_title(heading, fontsize=9)
        axes.set_ylim(0, 105)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)


EXPERIMENT = Experiment(
    name="rela",
    title="Attention",
    rows=tuple(KINDS),
    measure=measure,
    draw=draw,
    columns={
        "lookup accuracy": "lookups: right, %",
        "lookup zeros at first": "zeros untrained, %",
        "lookup zeros": "zeros, %",
        "lookup aligned": "on the right token, %",
        "null, key there": "rows of zeros, key there, %",
        "null, key absent": "key absent, %",
        "digits accuracy": "digits: right, %",
        "digits loss": "loss, nats",
        "digits zeros at first": "zeros untrained, %",
        "digits zeros": "zeros, %",
        "digits null rows": "rows of zeros, %",
    },
    digits={"digits loss": 3, "lookup zeros": 1, "digits zeros": 1, "lookup aligned": 1}
    | dict.fromkeys(("null, key there", "null, key absent", "digits null rows"), 1)
    | dict.fromkeys(("lookup zeros at first", "digits zeros at first"), 1),
)

if __name__ == "__main__":
    main(EXPERIMENT)
