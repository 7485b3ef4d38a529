"""A federated run within an experiment: the quickstart's digits with other settings, in this process."""

import contextlib
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from fedmoe.flower.local_run import run_locally
from fedmoe.personal import Personalizer
from fedmoe.personal.personalized import COMMON

__all__ = ["dealt", "evaluation_of", "federated_run", "summary_of"]

SIMULATION = Path(__file__).parents[2] / "simulations" / "quickstart"
ALWAYS: Mapping[str, Any] = {"evaluate.baselines": "", "train.trainer": "loop", "train.workers": 1}


@contextlib.contextmanager
def federated_run(settings: Mapping[str, Any], rounds: int) -> Iterator[Path]:
    """Yields the folder of a finished run, which is gone afterwards; it is evaluated and kept after its last round.

    Args:
        settings: over the quickstart's own, by key.
        rounds: of it.
    """
    given = {"num-server-rounds": rounds, "evaluate.every": rounds, "checkpoint-every": rounds, **ALWAYS, **settings}
    with TemporaryDirectory() as folder:
        text = " ".join(f"{key}={json.dumps(value)}" for key, value in {**given, "output-dir": folder}.items())
        with contextlib.redirect_stdout(io.StringIO()):
            run_locally(SIMULATION, [text], None)
        (summary,) = Path(folder).rglob("summary.json")
        yield summary.parent


def summary_of(run: Path) -> dict[str, Any]:
    """Returns what a run's `summary.json` tells."""
    told: dict[str, Any] = json.loads((run / "summary.json").read_text())
    return told


def evaluation_of(run: Path) -> dict[str, Any]:
    """Returns what the run's last line in `rounds.jsonl` tells of unseen clients."""
    told: dict[str, Any] = json.loads((run / "rounds.jsonl").read_text().splitlines()[-1])["evaluate"]
    return told


def dealt(run: Path) -> dict[str, float]:
    """Returns how a run's gate weighs the held experts for its unseen clients' samples, means over all samples.

    `active`: experts of a weight above 0; `zeros`: share of the held experts' weights that are 0; `empty`: share of
    samples for which all are; `by_common`: share that the common expert answers, percent all three.
    """
    personalizer = Personalizer(run)
    found = [personalizer.client(number) for number in range(personalizer.num_clients)]
    above_BK = np.concatenate([client.weights > 0 for client in found])
    return {
        "active": float(above_BK.sum(axis=1).mean()),
        "zeros": 100 * float(1 - above_BK.mean()),
        "empty": 100 * float((~above_BK.any(axis=1)).mean()),
        "by_common": 100 * float((np.concatenate([client.chosen for client in found]) == COMMON).mean()),
    }
