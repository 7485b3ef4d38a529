"""What each part of FedPrints' grouping brings: `python -m benchmarks.groups` groups the map's clients, trains nothing.

Found groups are held against the true ones (how clients' inputs look), which the method never sees, by the adjusted
Rand index: 1 is the same partition, 0 what chance gives. Unseen clients count, each put to the group that its
discriminants name.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.regime_grid import REGIMES, Regime, parts_of
from benchmarks.regime_settings import chosen, config_of, map_parser
from benchmarks.seeds import seeds_of
from fedmoe.cli import told_in_a_line
from fedmoe.data.contracts import Ids
from fedmoe.data.fingerprints import Fingerprints
from fedmoe.federation.grouping import ClientPrint, Groups, clustered, find_groups, print_of
from fedmoe.flower.preparation import Preparation, prepare_run
from fedmoe.settings import from_flat
from fedmoe.training.sample_store import SampleStore
from strategies.fedprints import FedPrints

__all__ = ["Found", "asked_of", "grouped", "main", "table_rows"]

THRESHOLD, GAP = FedPrints.threshold, FedPrints.gap
MOST = 10  # groups that may be found: more than there are in any regime
OURS = "FedPrints"
Prints = dict[int, ClientPrint]
Features = Callable[[SampleStore, Ids], NDArray[np.float32]]


@dataclass(frozen=True)
class Found:
    """One regime and seed.

    Attributes:
        regime: its name.
        true: groups that there are.
        num: variant -> groups found.
        agreement: variant -> adjusted Rand index.
        axes: directions that told groups apart.
        ratios: of the leading directions, descending, as the method has them.
    """

    regime: str
    true: int
    num: dict[str, int]
    agreement: dict[str, float]
    axes: int
    ratios: tuple[float, ...]


def grouped(name: str, preparation: Preparation, seed: int) -> Found:
    """Returns what the method finds, and what it would find without one of its parts."""
    from sklearn.metrics import adjusted_rand_score

    population, most = preparation.population, preparation.settings.experts.num
    home = looks(preparation)
    own = prints_of(preparation, fingerprints)
    found = find_groups(training(own, preparation), MOST, THRESHOLD, GAP, seed)
    labels = {OURS: told(found, own)}
    for variant, features in (("embeddings for looks", embedded(preparation.store)), ("looks as they are", plain)):
        other = prints_of(preparation, features)
        labels[variant] = told(find_groups(training(other, preparation), MOST, THRESHOLD, GAP, seed), other)
    labels["no discriminants, told M"] = nearest(own, preparation, most, seed)
    return Found(
        regime=name,
        true=len(set(home.tolist())),
        num={variant: len(set(group[: population.num_training].tolist())) for variant, group in labels.items()},
        agreement={variant: float(adjusted_rand_score(home, group)) for variant, group in labels.items()},
        axes=found.num - 1,
        ratios=found.ratios,
    )


def looks(preparation: Preparation) -> NDArray[np.int64]:
    """Returns how each client's inputs look, by number: its domain, unless all domains look alike."""
    population = preparation.population
    clients = (*population.training, *population.unseen)
    home = np.array([int(population.domain_N[population.shards[client][0]]) for client in clients])
    alike = len(set(population.domains)) == 1 and preparation.data.dataset.domain_N is None
    return np.zeros_like(home) if alike else home


def prints_of(preparation: Preparation, features: Features) -> Prints:
    """Returns the print of every client, of these features of its samples."""
    return {
        client: print_of(features(preparation.store, ids)) for client, ids in enumerate(preparation.population.shards)
    }


def fingerprints(store: SampleStore, ids: Ids) -> NDArray[np.float32]:
    """Returns what the method reads: the images' looks, less what the common expert's beliefs explain."""
    return store.gate_input(ids, "fingerprint").numpy()


def embedded(store: SampleStore) -> Features:
    """Returns what reads the common expert's embeddings in the looks' place, less the same."""
    public = store.public_ids
    prints = Fingerprints.fitted(store.embeddings[public], store.logits[public])
    return lambda own, ids: prints.of(own.embeddings[ids], own.logits[ids])


def plain(store: SampleStore, ids: Ids) -> NDArray[np.float32]:
    """Returns the images' looks, beliefs and all."""
    return store.looks.of(store.pictures[ids])


def training(prints: Prints, preparation: Preparation) -> Prints:
    """Returns those of training clients."""
    return {client: prints[client] for client in preparation.population.training}


def told(found: Groups, prints: Prints) -> NDArray[np.int64]:
    """Returns the group that the discriminants name for each client."""
    means = np.stack([prints[client].mean_D for client in sorted(prints)])
    groups: NDArray[np.int64] = (means @ found.weight_MD.T + found.bias_M).argmax(axis=1)
    return groups


def nearest(prints: Prints, preparation: Preparation, groups: int, seed: int) -> NDArray[np.int64]:
    """Returns the nearest centre of plain k-means on the mean fingerprints, its number of groups given."""
    means = np.stack([prints[client].mean_D for client in sorted(prints)])
    clients = preparation.population.num_training
    sizes = np.array([prints[client].num for client in range(clients)])
    _, centres = clustered(means[:clients], sizes, groups, seed)
    closest: NDArray[np.int64] = ((means[:, None] - centres) ** 2).sum(axis=2).argmin(axis=1)
    return closest


def table_rows(results: Sequence[Found]) -> list[list[str]]:
    """Returns a row a regime: true groups, those found by each variant and their agreement, ratios at the threshold."""
    rows = []
    for name in dict.fromkeys(found.regime for found in results):
        own = [found for found in results if found.regime == name]
        cells = [REGIMES[name].title, str(own[0].true)]
        for variant in own[0].num:
            numbers = sorted({found.num[variant] for found in own})
            span = str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"
            agreement = np.mean([found.agreement[variant] for found in own])
            cells.append(f"{span} ({agreement:.2f})" if own[0].true > 1 else span)
        telling = [found.ratios[found.axes - 1] for found in own if found.axes]
        cells += [
            f"{min(telling):.2f}" if telling else "-",
            f"{max((*found.ratios, 0.0)[found.axes] for found in own):.2f}",
        ]
        rows.append(cells)
    return rows


HEADS = (
    "regime",
    "true groups",
    "FedPrints (agreement)",
    "embeddings for looks",
    "looks as they are",
    "no discriminants, told M",
    "last ratio that tells",
    "the next",
)


def asked_of(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Returns what the command's words ask for."""
    return map_parser("groups", __doc__ or "").parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command.

    Raises:
        SettingsError: no regime is asked for, one that needs data which are not told, or a setting is wrong.
    """
    asked = asked_of(arguments)
    results = []
    console, seeds, roots = Console(), seeds_of(asked.seeds), (asked.fashion, asked.cifar)
    for name in chosen(asked.only, roots, asked.run_config):
        for seed in seeds:
            console.print(f"{name}, seed {seed}", style="dim")
            results.append(grouped(name, prepared(REGIMES[name], seed, *roots, asked.run_config), seed))
    table, rows = Table(*HEADS), table_rows(results)
    for row in rows:
        table.add_row(*row)
    console.print(table)
    for line in (HEADS, ["---", *["--:"] * (len(HEADS) - 1)], *rows):
        console.print("| " + " | ".join(line) + " |", soft_wrap=True, highlight=False, markup=False)


def prepared(regime: Regime, seed: int, fashion: str, cifar: str, more: Sequence[str]) -> Preparation:
    """Returns the regime's data, clients and common expert, as the map has them."""
    part = parts_of(regime, seed, fashion, cifar)[0]
    return prepare_run(from_flat(config_of(part, more)), torch.device("cpu"), lambda _: None)


if __name__ == "__main__":
    with told_in_a_line():
        main()
