"""A side's own process: `python -m benchmarks.sides NAME WORK`; does a turn for every line `go` on its stdin.

A turn is as many rounds as take half a second: rounds follow each other, as in a run. A single round of 20 ms after
other sides' turns would be timed with cold caches.

It answers in JSON, a line each, on what was its stdout; whatever the libraries print there goes to stderr. The first
line says that it is ready, and what it is ready with; then a line a turn, with the seconds of a round and each round's
samples.
"""

import argparse
import json
import os
import sys
import time
import traceback
from typing import Any

import numpy as np

from benchmarks.sides import SIDES, MissingLibraryError, Rounds, run_side
from benchmarks.workloads import WORKS, work_named

TURN = 0.5  # seconds


def main() -> None:
    """Runs one side until stdin ends."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sides")
    parser.add_argument("name", choices=SIDES)
    parser.add_argument("work", choices=WORKS)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--warm-up", type=int, default=2)
    parser.add_argument("--toy", action="store_true")
    asked = parser.parse_args()
    turn = 0.0 if asked.toy else TURN
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def answer(table: dict[str, Any]) -> None:
        answers.write(json.dumps(table) + "\n")

    def serve(rounds: Rounds) -> None:
        answer(warmed_up(rounds, asked.warm_up))
        for line in sys.stdin:
            if line.strip() == "go":
                answer(timed(rounds, turn))

    try:
        run_side(asked.name, work_named(asked.work, asked.toy), asked.threads, serve)
    except MissingLibraryError as error:
        sys.exit(str(error))
    except BaseException:
        # Threads of Flower's engine may wait for ever for what has failed: no waiting for them.
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


def warmed_up(rounds: Rounds, count: int) -> dict[str, Any]:
    """Returns what the parent checks before it measures: samples of a round, values of the model, how far it moved."""
    import torch  # only now: after the side's own library

    before = rounds.weights()
    samples = [rounds.train() for _ in range(count)]
    after = rounds.weights()
    return {
        "ready": True,
        "samples": samples,
        "parameters": int(after.size),
        "finite": bool(np.isfinite(after).all()),
        "moved": float(np.abs(after - before).max()),
        "torch_threads": torch.get_num_threads(),
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY"),
        **rounds.facts,
    }


def timed(rounds: Rounds, turn: float) -> dict[str, Any]:
    """Does rounds for `turn` seconds, one at least; returns the seconds of one, and the samples of each."""
    samples: list[int] = []
    started = time.perf_counter()
    while True:
        samples.append(rounds.train())
        seconds = time.perf_counter() - started
        if seconds >= turn:
            return {"seconds": seconds / len(samples), "samples": samples}


if __name__ == "__main__":
    main()
