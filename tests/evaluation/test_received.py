"""How often what a client received is right, against a count by hand, sample by sample."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from fedmoe.evaluation.received import received_by_clients, received_counts
from fedmoe.moe.mixture import mix
from fedmoe.moe.vectors import load_vector
from tests.training.test_stand_ins import NAME, with_candidate
from tests.training.test_trainers import ROWS, Field, prepared  # noqa: F401 - a fixture


@pytest.mark.parametrize("name", ["dense", "mixture", "logit adjustment"])
@pytest.mark.parametrize("stands_in", [False, True])
def test_counts_are_those_by_hand(prepared: Callable[..., Field], name: str, stands_in: bool) -> None:  # noqa: F811
    field = prepared(ROWS[name])
    state, place = with_candidate(field), field.place
    tried = 0
    for plain in field.jobs(ROWS[name]):
        if stands_in and 1 not in plain.experts:
            continue
        job = replace(plain, instead={1: NAME} if stands_in else {}, reports=True)
        found = received_counts(place, job, state, place.make_expert())
        ids = place.population.shards[job.client_id]
        samples = place.store.load(ids, "embedding")
        prior = place.log_prior_of(ids)
        logits = []
        for i in job.experts:
            expert = place.make_expert().eval()
            load_vector(expert, state.extras[NAME] if stands_in and i == 1 else state.experts[i])
            with torch.no_grad():
                own = expert(samples.inputs(slice(None)))
            logits.append(own if prior is None else own + prior)
        logits_KBC = torch.stack(logits)
        falls_B, mixed_BC = None, None
        if job.gate:
            gate = place.gate_for(len(state.experts))
            load_vector(gate, state.gate)
            with torch.no_grad():
                scores_BK = gate.eval().scores(samples.gate_input)[:, list(job.experts)]
            falls_B = scores_BK.argmax(dim=1)
            mixed_BC = mix(logits_KBC, torch.softmax(scores_BK, dim=1))
        for k, i in enumerate(job.experts):
            counts = [0, 0, 0]
            for row, label in enumerate(samples.y.tolist()):
                if falls_B is not None and int(falls_B[row]) != k:
                    continue
                right = int(logits_KBC[k, row].argmax()) == label
                mixed = right if mixed_BC is None else int(mixed_BC[row].argmax()) == label
                counts = [counts[0] + 1, counts[1] + right, counts[2] + mixed]
            source = job.source_of(i)
            assert (source in found) == (not stands_in or i == 1)
            if source in found:
                assert list(found[source]) == counts
                tried += counts[0]
    assert tried > 100


def test_only_clients_whose_jobs_report_are_counted_and_one_that_cannot_is_named(
    prepared: Callable[..., Field],  # noqa: F811
) -> None:
    field = prepared(ROWS["mixture"])
    jobs = field.jobs(ROWS["mixture"])[:3]
    asked = [
        jobs[0],
        replace(jobs[1], reports=True),
        replace(jobs[2], reports=True, instead={jobs[2].experts[0]: "no"}),
    ]
    told, failures = received_by_clients(field.place, asked, field.state, field.place.make_expert())
    assert list(told) == ["1"]
    assert [(own.stage, own.client_id) for own in failures] == [("train", 2)]
