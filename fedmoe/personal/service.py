"""A fresh client's images in, what it gets out: ranked, the best K experts fetched, answered.

Shapes: B samples, M experts in the pool, K held ones, C classes.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedmoe.evaluation.outputs import expert_logits
from fedmoe.evaluation.predictions import Answers, corrections, predictions_of
from fedmoe.evaluation.prior_em import correct_priors
from fedmoe.evaluation.priors import federated_prior, public_prior, voted_prior
from fedmoe.evaluation.zero_shot import rank_experts, rule_of
from fedmoe.federation.assignment import top_k
from fedmoe.federation.ledger import FLOAT_BYTES
from fedmoe.moe.expert import Expert
from fedmoe.moe.gate import Gate
from fedmoe.moe.vectors import load_vector
from fedmoe.personal.fetching import Fetching
from fedmoe.personal.personalized import COMMON, MIXTURE, Personalized, Way
from fedmoe.personal.trained import Trained
from fedmoe.training.sample_store import SampleStore
from fedmoe.training.samples import ClientSamples

__all__ = ["UNKNOWN", "Batch", "serve_batch"]

UNKNOWN = -1  # the label of a sample that has none


@dataclass(frozen=True, kw_only=True)
class Batch:
    """A fresh client's samples, looked at by the common expert.

    Attributes:
        who: the client, in words.
        images: uint8 (B, channels, height, width).
        samples: what experts and gate read of them; the labels are -1 where they are not known.
        common_BC: the common expert's logits.
        mean_D: the mean of its embeddings.
        ties: what breaks ties among the experts.
        seconds: that the common expert took.
        notes: what a person must know of them.
        files: where they came from, a path each; empty: from no files.
        head: which of the server's heads is the client's own; -1: not known.
    """

    who: str
    images: NDArray[np.uint8]
    samples: ClientSamples
    common_BC: Tensor
    mean_D: NDArray[np.float32]
    ties: np.random.Generator
    seconds: float
    notes: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    head: int = -1


def serve_batch(trained: Trained, store: SampleStore, scratch: Expert, batch: Batch) -> Personalized:
    """Returns what the client gets; its labels are counted by nobody in here, and choose nothing.

    Args:
        trained: the method that serves it.
        store: the run's samples.
        scratch: an expert on the method's device, whose weights may be overwritten.
        batch: the client's images, looked at.

    Raises:
        RunFolderError: what has to be fetched is damaged.
    """
    serving, fetching, seconds = trained.serving, Fetching(trained), {"embed": batch.seconds}

    def load(expert_id: int) -> Expert:
        load_vector(scratch, fetching.experts[expert_id])
        return scratch

    gate = _gate(trained, fetching, batch)
    if serving.by == "confidence":
        fetching.fetch_experts(range(trained.num_experts))
    with _timed(seconds, "rank"):
        (logits_BM,), (scores,), outputs = rank_experts(gate, load, trained.num_experts, [batch.samples], serving)
        held = top_k(scores, serving.top_k, batch.ties)
    fetching.fetch_experts(held)
    with _timed(seconds, "predict"):
        outputs = outputs or expert_logits(load, [held], [batch.samples])
        labels, rule = batch.samples.y.cpu(), rule_of(gate, serving)
        answers = Answers(
            held, scores, logits_BM, outputs[0], labels, batch.common_BC, weigh=rule[0], falls_back=rule[1]
        )
        found = predictions_of(answers.of_held(), serving, batch.common_BC)
    with _timed(seconds, "correct"):
        ways = _ways(trained, batch.common_BC, found)
    return Personalized(
        who=batch.who,
        method=trained.name,
        round_num=trained.checkpoint.round_num,
        class_names=tuple(trained.preparation.data.dataset.class_names),
        images=batch.images,
        labels=_known(batch.samples.y),
        experts=tuple(int(expert) for expert in held),
        scores=np.array(scores),
        routed_by=_routed_by(trained),
        routing=torch.softmax(logits_BM.double(), dim=1).numpy(),
        weights=answers.weigh(logits_BM.double(), torch.tensor(held)).numpy(),
        chosen=_chosen(trained, answers),
        ways=ways,
        bytes={
            "common": trained.ledger.common_size * FLOAT_BYTES,
            **fetching.bytes,
            "pool": trained.num_experts * trained.ledger.expert_size * FLOAT_BYTES,
        },
        seconds={**seconds, "fetch": fetching.seconds},
        notes=(*trained.notes, *_left_over(trained, answers), *batch.notes),
        files=batch.files,
    )


def _gate(trained: Trained, fetching: Fetching, batch: Batch) -> Gate | None:
    """Returns the method's gate, or of its heads the client's own or the nearest, fetched; `None` where it has none."""
    gate = trained.empty_gate()
    if gate is not None:
        load_vector(gate, fetching.gate(batch.head, batch.mean_D))
    return gate


def _ways(trained: Trained, common_BC: Tensor, found: Mapping[str, Tensor]) -> dict[str, Way]:
    """Returns every way to predict: the common expert's first, each without and with prior correction."""
    population, settings = trained.preparation.population, trained.preparation.settings
    prior = torch.from_numpy(federated_prior(population, settings.train.logit_adjustment))
    own = voted_prior(prior, population, trained.serving.common_vote)
    before, after = {"plain": torch.log_softmax(common_BC, dim=1)}, dict(found)
    public = torch.from_numpy(public_prior(population))
    ways: dict[str, Way] = {}
    for name, log_probs_BC in (before | after).items():
        ways[name] = _way(log_probs_BC, log_probs_BC.double().exp())
        for way, doubt in corrections(settings.evaluate.doubt).items():
            (fixed_BC,) = correct_priors([log_probs_BC], public if name == "plain" else own, doubt=doubt)
            ways[way if name == "plain" else f"{name}_{way}"] = _way(fixed_BC, fixed_BC)
    return ways


def _way(ranked_BC: Tensor, probabilities_BC: Tensor) -> Way:
    return Way(ranked_BC.argmax(dim=1).numpy(), probabilities_BC.numpy())


def _chosen(trained: Trained, answers: Answers) -> NDArray[np.int64]:
    """Returns the expert that answered each sample; `MIXTURE` where all held ones did, `COMMON`: the common expert."""
    of_held = answers.of_held()
    if trained.serving.answer == "mixture" and len(of_held.logits_KBC) > 1:
        return np.full(len(answers.logits_BM), MIXTURE, dtype=np.int64)
    chosen_B: NDArray[np.int64] = np.array([*answers.held, COMMON], dtype=np.int64)[of_held.best_B.numpy()]
    return chosen_B


def _left_over(trained: Trained, answers: Answers) -> list[str]:
    """Returns a sentence on the images that the gate leaves to the common expert, if it may."""
    if not answers.falls_back:
        return []
    count, every = int((_chosen(trained, answers) == COMMON).sum()), len(answers.logits_BM)
    told = f"The gate may leave an image to the common expert, which then answers: {count} of these {every}."
    return [f"{told} The strips show the softmax of its scores, by which it ranks, not its weights."]


def _known(y: Tensor) -> NDArray[np.int64] | None:
    return None if (y == UNKNOWN).any() else y.cpu().numpy()


def _routed_by(trained: Trained) -> str:
    if trained.serving.by == "confidence":
        return "confidence"
    return "none" if trained.reads is None else "gate"


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - started
