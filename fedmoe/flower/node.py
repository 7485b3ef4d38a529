"""One process's workplace for one run, with the training of a cohort of its clients."""

from collections.abc import Mapping
from dataclasses import asdict
from itertools import chain
from typing import Any

import torch
from numpy.typing import NDArray

from fedmoe.evaluation.received import received_by_clients
from fedmoe.federation.job import ClientFailure, ClientJob, in_turn
from fedmoe.federation.merging import Sums
from fedmoe.flower.serving_node import ServingNode
from fedmoe.flower.wire import job_from_json, partial_state, row_of
from fedmoe.settings import Settings
from fedmoe.training.choice import choose_trainer, is_known
from fedmoe.training.speed import TrainerChoice, make_trainer
from fedmoe.training.stacked import StackedTrainer
from fedmoe.training.statistic import answers
from fedmoe.training.trainer import LocalTrainer

__all__ = ["Node"]


class Node(ServingNode):
    """What one process needs to do clients' work; built once a process and run.

    Args:
        settings: the run's.
        plan: what the server fixed (`ServingNode`).
        device: where this node computes.
        sharers: processes that share the device's memory; a stack takes its part of what is free.

    Raises:
        DataError: this node does not find what the server prepared.
    """

    def __init__(self, settings: Settings, plan: Mapping[str, Any], device: torch.device, *, sharers: int = 1) -> None:
        super().__init__(settings, plan, device, sharers=sharers)
        self.trainers: dict[tuple[str, int, str, bool], LocalTrainer] = {}

    def measure(self, order: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
        """Returns which trainer is the fastest here for jobs like these, and the figures."""
        jobs = self._jobs(order)
        state, rounds, kept = partial_state(arrays, order["num_experts"]), order["rounds"], order.get("kept", True)
        return asdict(choose_trainer(self.place, jobs, state, rounds, kept=kept))

    def knows(self, order: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> bool:
        """Returns whether `measure` has nothing to measure: by the settings, or by an earlier run."""
        jobs = [job_from_json(job) for job in order["jobs"]]
        return is_known(self.place, jobs, partial_state(arrays, order["num_experts"]))

    def trainer(self, choice: TrainerChoice) -> LocalTrainer:
        """Returns the resident trainer of this choice."""
        key = (choice.kind, choice.width, choice.layout, choice.compiled)
        if key not in self.trainers:
            self.trainers = {key: make_trainer(self.place, choice)}  # one at a time: another method's gives way
        return self.trainers[key]

    def train(
        self, order: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
    ) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Returns the report (a row a client, weights of the sums, failures) and the sums, or each client's update."""
        state = partial_state(arrays, order["num_experts"])
        sums, rows, failures = Sums(self.settings.deterministic), [], []
        kept: dict[str, NDArray[Any]] = {}
        trainer = self.trainer(TrainerChoice.from_json(order["trainer"]))
        jobs_of_all = self._jobs(order)
        ranked = self.rank(order, arrays) if order.get("clients") else {"rankings": {}, "failures": []}
        received, unable = received_by_clients(self.place, jobs_of_all, state, self.scratch)
        failures += [*ranked["failures"], *map(asdict, unable)]
        failed, sent = {own["client_id"] for own in failures if own["stage"] == "train"}, set[int]()
        counted = dict[int, dict[str, int]]()
        for number, jobs in enumerate(in_turn(jobs_of_all)):
            sparse = {job.client_id for job in jobs if job.makes_zeros}
            present = [job for job in jobs if job.client_id not in failed]
            asked = answers(self.place, [job for job in present if job.question], state)
            for outcome in chain(asked, trainer.train([job for job in present if not job.question], state)):
                if isinstance(outcome, ClientFailure):
                    failures.append(asdict(outcome))
                    failed.add(outcome.client_id)
                    continue
                if number == 0:
                    rows.append(row_of(outcome))
                sent |= {outcome.client_id} if outcome.vectors() else set()
                if outcome.client_id in sparse:
                    counted.setdefault(outcome.client_id, {}).update(outcome.nonzeros())
                if outcome.kept:
                    self._present_states(outcome.client_id).keep(outcome.client_id, outcome.kept)
                if order["merges"] == "updates":
                    kept |= {f"{outcome.client_id}/{name}": vector for name, vector in outcome.vectors().items()}
                else:
                    sums.add(outcome)  # one client at a time: memory does not grow with the cohort
        rows = [row for row in rows if row["client_id"] not in failed - sent]
        rows = [row | ({"nonzeros": counted[own]} if (own := row["client_id"]) in counted else {}) for row in rows]
        looped = trainer.looped if isinstance(trainer, StackedTrainer) else {}
        told = {"rankings": ranked["rankings"], "received": received, "looped": looped}
        report = {"rows": rows, "failures": failures, **told}
        if order["merges"] == "updates":
            return report, kept
        return report | {"weights": sums.weights}, sums.arrays

    def _jobs(self, order: Mapping[str, Any]) -> list[ClientJob]:
        """Returns the order's jobs, and looks from now on where its clients keep what they keep."""
        jobs = [job_from_json(job) for job in order["jobs"]]
        self.states = self._states_of(order, jobs[0].round_num) if jobs else None
        return jobs
