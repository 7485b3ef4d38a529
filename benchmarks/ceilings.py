"""How much routing could win: `python -m benchmarks.ceilings` trains each look's model in one place, and serves by it.

The model of a look is trained on the pooled samples of all its clients, by SGD as in the map, in as many steps as an
expert of the map gets if its clients work one after another, from the common expert on, and an unseen client is served
by the model of its own, true look. As in the map the moving average of 0.9 is tested. That is no bound: another rate,
another start or more steps may get more.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor
from torch.nn.functional import cross_entropy

from benchmarks.groups import looks, prepared
from benchmarks.regime_cells import Cell, read_csv
from benchmarks.regime_grid import REGIMES, TRANSFERS, parts_of
from benchmarks.regime_rows import summary_rows, told_cells
from benchmarks.regime_settings import chosen, config_of, map_parser
from benchmarks.regime_table import told_interval
from benchmarks.seeds import seeds_of
from fedmoe.cli import told_in_a_line
from fedmoe.errors import SettingsError
from fedmoe.evaluation.prior_em import correct_priors
from fedmoe.flower.preparation import Preparation
from fedmoe.moe.construction import build_expert, expert_reads
from fedmoe.moe.expert import Expert
from fedmoe.seeding import numpy_stream
from fedmoe.settings import from_flat
from fedmoe.training.samples import normalised

__all__ = ["Ceiling", "ceiling_of", "main", "table"]


@dataclass(frozen=True)
class Ceiling:
    """One regime and seed.

    Attributes:
        regime: its name.
        seed: of the map's runs.
        plain: mean accuracy on unseen clients, in [0, 1].
        corrected: likewise with guarded label-prior correction, as FedPrints predicts in the map.
    """

    regime: str
    seed: int
    plain: float
    corrected: float


def ceiling_of(name: str, preparation: Preparation) -> Ceiling:
    """Returns what the unseen clients get by the model of their own look."""
    population, home = preparation.population, looks(preparation)
    plain, corrected, found = list[float](), list[float](), sorted(set(home.tolist()))
    for look in found:
        shards = [population.shards[client] for client in population.training if home[client] == look]
        ids = np.concatenate(shards)
        batches = [-(-len(shard) // preparation.settings.train.batch_size) for shard in shards]
        model = trained(preparation, ids, round(TRANSFERS / len(found) * float(np.mean(batches))), look)
        prior_C = torch.bincount(preparation.store.y(ids), minlength=population.num_classes).double() / len(ids)
        for client in population.unseen:
            if home[client] == look:
                own = population.shards[client]
                y, log_BC = preparation.store.y(own), answers(preparation, model, own)
                plain.append(float((log_BC.argmax(dim=1) == y).double().mean()))
                doubt = preparation.settings.evaluate.doubt
                best = correct_priors([log_BC], prior_C, doubt=doubt)[0].argmax(dim=1)
                corrected.append(float((best == y).double().mean()))
    return Ceiling(name, preparation.settings.seed, float(np.mean(plain)), float(np.mean(corrected)))


def trained(preparation: Preparation, ids: NDArray[np.int64], steps: int, look: int) -> Expert:
    """Returns a look's model: SGD on its pooled samples, the moving average over rounds.

    Args:
        preparation: the regime's.
        ids: samples of the look.
        steps: of a round.
        look: by number.
    """
    settings, train = preparation.settings, preparation.settings.train
    model = build_expert(settings.experts.model, preparation.spec, settings.seed)
    model.load_state_dict(preparation.common.expert.state_dict())
    optimiser = torch.optim.SGD(model.parameters(), lr=train.learning_rate, momentum=train.momentum)
    stream = numpy_stream(settings.seed, "ceilings", look)
    order, average = np.empty(0, dtype=np.int64), list[Tensor]()
    for _ in range(settings.num_server_rounds):
        for _ in range(steps):
            if len(order) < train.batch_size:
                order = stream.permutation(ids)
            batch, order = order[: train.batch_size], order[train.batch_size :]
            optimiser.zero_grad()
            loss = cross_entropy(model(inputs(preparation, batch)), preparation.store.y(batch))
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        weights = [parameter.detach().clone() for parameter in model.parameters()]
        kept, fresh = settings.evaluate.ema, 1 - settings.evaluate.ema
        average = [kept * old + fresh * new for old, new in zip(average, weights, strict=True)] if average else weights
    with torch.no_grad():
        for parameter, value in zip(model.parameters(), average, strict=True):
            parameter.copy_(value)
    return model


def inputs(preparation: Preparation, ids: NDArray[np.int64]) -> Tensor:
    """Returns the samples as an expert sees them."""
    samples = preparation.store.load(ids, None)
    return normalised(samples.images, samples.mean, samples.std)


def answers(preparation: Preparation, model: Expert, ids: NDArray[np.int64]) -> Tensor:
    """Returns log-probabilities (len(ids), classes)."""
    with torch.no_grad():
        parts = [model(inputs(preparation, ids[first : first + 1024])) for first in range(0, len(ids), 1024)]
    return torch.cat(parts).log_softmax(dim=1)


def table(results: Sequence[Ceiling], known: Sequence[Cell] = ()) -> list[str]:
    """Returns the lines of a Markdown table: a regime each, mean and deviation over seeds, percent.

    Args:
        results: a regime and a seed each.
        known: of the map; a regime is compared with it if it holds all the regime's seeds, paired by seed.
    """
    heads = ["one model a look", "with correction", "above FedPrints by [95 %]", "above the best of the four by [95 %]"]
    lines = [f"| regime | {' | '.join(heads)} | seeds |", "| --- " + "| --: " * (len(heads) + 1) + "|"]
    for name in dict.fromkeys(found.regime for found in results):
        own = sorted((found for found in results if found.regime == name), key=lambda found: found.seed)
        cells = []
        for values in ([found.plain for found in own], [found.corrected for found in own]):
            spread = f" ± {100 * np.std(values, ddof=1):.1f}" if len(own) > 1 else ""
            cells.append(f"{100 * np.mean(values):.1f}{spread}")
        lines.append(f"| {REGIMES[name].title} | {' | '.join([*cells, *_against(own, known)])} | {len(own)} |")
    return lines


def _against(own: Sequence[Ceiling], known: Sequence[Cell]) -> list[str]:
    """Returns by how much a regime's corrected ceilings stand above FedPrints and above the best of the others."""
    seeds = tuple(found.seed for found in own)
    rows = summary_rows([cell for cell in known if cell.regime == own[0].regime and cell.seed in seeds])
    if not rows or rows[0].seeds != seeds:
        return ["", ""]
    ceiling = np.array([found.corrected for found in own])
    return [told_interval(ceiling - rows[0].accuracies[method]) for method in ("fedprints", rows[0].rival)]


def has_ceiling(name: str, more: Sequence[str]) -> bool:
    """Returns whether clients of a regime differ in looks, and its experts read images.

    Args:
        name: the regime's.
        more: settings of all runs, over the map's own.
    """
    settings = from_flat(config_of(parts_of(REGIMES[name], 0, "", "")[0], more))
    several = settings.data.name == "three_sources" or len(set(settings.clients.domains.split(","))) > 1
    return REGIMES[name].groups > 1 and several and expert_reads(settings.experts.model) == "image"


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command.

    Raises:
        SettingsError: no regime with looks is asked for, one that needs data which are not told, or a setting is wrong.
    """
    parser = map_parser("ceilings", __doc__ or "", only="^rotated-4$")
    parser.add_argument("--known", type=Path, help="a map.csv: tell the differences to it, paired by seed")
    asked = parser.parse_args(arguments)
    console, roots, results = Console(), (asked.fashion, asked.cifar), list[Ceiling]()
    known = told_cells(read_csv(asked.known)) if asked.known else []
    names = chosen(asked.only, roots, asked.run_config)
    without = [name for name in names if not has_ceiling(name, asked.run_config)]
    if without:
        raise SettingsError(
            "--only must fit regimes of several looks, whose experts read images, got "
            f"'{asked.only}', which fits {', '.join(without)}; hint: ^rotated-4$"
        )
    for name in names:
        for seed in seeds_of(asked.seeds):
            results.append(ceiling_of(name, prepared(REGIMES[name], seed, *roots, asked.run_config)))
            console.print(f"{name}, seed {seed}: {results[-1]}", style="dim", highlight=False)
    for line in table(results, known):
        console.print(line, soft_wrap=True, highlight=False, markup=False)


if __name__ == "__main__":
    with told_in_a_line():
        main()
