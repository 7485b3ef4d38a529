"""How unseen clients fare under attack: their images moved against them within eps, and routed anew.

The attacker knows everything: labels, gate and experts. A client's K experts are those that it got for its clean
images; which of them answers is decided by the attacked one, wherever the gate can see it.

Shapes: B samples of one client, M experts, K held ones, C classes, D width of the gate's input.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from fedmoe.evaluation.predictions import HeldAnswers, predictions_of
from fedmoe.evaluation.serving import Serving
from fedmoe.evaluation.zero_shot import ClientResult, confidence, rule_of
from fedmoe.moe.expert import Expert
from fedmoe.moe.gate import Gate
from fedmoe.moe.mixture import with_common
from fedmoe.moe.routing import best_held
from fedmoe.seeding import torch_stream
from fedmoe.settings import EvaluateSettings
from fedmoe.training.attack import Attack, Span
from fedmoe.training.sample_store import SampleStore
from fedmoe.training.samples import ClientSamples

__all__ = ["Ground", "Target", "robust_figures", "under_attack"]

ROWS = 64  # that are attacked at once, filled up with copies: who else is served changes no bit


@dataclass(frozen=True, kw_only=True)
class Target:
    """What an attack goes through: one client's pipeline, from its images to its answers.

    Attributes:
        gate: `None` when the pool is one dense model, or the experts' own confidence ranks.
        experts: of those that the client holds, best first; modules of their own.
        held: their ids.
        serving: how the client is served.
        num_experts: M.
        common: the common expert, for a gate that reads its embeddings or falls back on it.
    """

    gate: Gate | None
    experts: Sequence[Expert]
    held: tuple[int, ...]
    serving: Serving
    num_experts: int
    common: Expert | None = None

    def answers(self, x_BCHW: Tensor, read_BD: Tensor) -> HeldAnswers:
        """Returns what the held experts say of these inputs, and how the gate weighs them.

        Args:
            x_BCHW: normalised inputs.
            read_BD: what the gate reads of them where it does not look at them.
        """
        logits_KBC = torch.stack([expert(x_BCHW) for expert in self.experts])
        ids_K = torch.tensor(self.held, device=x_BCHW.device)
        weigh, falls_back = rule_of(self.gate, self.serving)
        if self.serving.by == "confidence":
            scores_BK = confidence(dict(enumerate(logits_KBC)))
            scores_BM = scores_BK.new_zeros(len(x_BCHW), self.num_experts).index_copy(1, ids_K, scores_BK)
        elif self.gate is None:
            scores_BM = x_BCHW.new_zeros(len(x_BCHW), self.num_experts)
        else:
            scores_BM = self.gate.scores(self._read(x_BCHW, read_BD))
        weights_BK = weigh(scores_BM, ids_K)
        if falls_back and self.common is not None:
            logits_KBC, weights_BK = with_common(logits_KBC, weights_BK, self.common(x_BCHW))
        return HeldAnswers(best_held(scores_BM[:, ids_K].detach(), weights_BK.detach()), weights_BK, logits_KBC)

    def _read(self, x_BCHW: Tensor, read_BD: Tensor) -> Tensor:
        """Returns what the gate reads of these inputs; lots stay what they were."""
        if self.gate is not None and self.gate.reads == "image":
            seen_BD = x_BCHW.flatten(1)
        elif self.gate is not None and self.gate.reads == "embedding" and self.common is not None:
            seen_BD = self.common.embed(x_BCHW)
        else:
            return read_BD
        return torch.cat([seen_BD, read_BD[:, seen_BD.shape[1] :]], dim=1)


@dataclass(frozen=True, kw_only=True)
class Ground:
    """What is the same for all clients that are attacked.

    Attributes:
        store: the samples.
        common: the common expert.
        seed: of the run: of where attacks start.
        asked: eps, step and steps.
    """

    store: SampleStore
    common: Expert | None
    seed: int
    asked: EvaluateSettings


@torch.no_grad()  # what an attack takes gradients of, it does itself
def robust_figures(
    target: Target, samples: ClientSamples, attack: Attack, span: Span | None, start_BCHW: Tensor
) -> dict[str, float]:
    """Returns a client's accuracy under attack by each way to predict, and `flips`, shares in [0, 1].

    Each way is attacked for itself, by its cross-entropy. Where one expert answers, the choice has no gradient: the
    attack takes the outputs' weighted mean's for it, so that it may move a sample to another expert too (straight
    through). `flips`: share of samples that another expert answers than for the clean image, under the attack on
    `zero_shot`.

    Args:
        target: what is attacked.
        samples: the client's.
        attack: how.
        span: of the pixels.
        start_BCHW: where it starts, in eps away from each image, in [-1, 1].
    """
    hits: dict[str, list[Tensor]] = {}
    flips: list[Tensor] = []
    for first in range(0, len(samples), ROWS):
        rows = torch.arange(first, first + ROWS, device=samples.y.device).clamp_max(len(samples) - 1)
        count = min(ROWS, len(samples) - first)
        x_BCHW, y_B, read_BD = samples.inputs(rows), samples.y[rows], samples.gate_input[rows]
        clean = target.answers(x_BCHW, read_BD)
        for way in predictions_of(clean, target.serving):
            figure = loss_of(target, way, y_B, read_BD)
            moved = target.answers(attack.on(figure, x_BCHW, span, start_BCHW[rows.cpu()].to(x_BCHW)), read_BD)
            right_B = predictions_of(moved, target.serving)[way].argmax(dim=1) == y_B
            hits.setdefault(way, []).append(right_B[:count])
            if way == "zero_shot":
                flips.append((moved.best_B != clean.best_B)[:count])
    return {way: share(parts) for way, parts in hits.items()} | {"flips": share(flips)}


def under_attack(
    ground: Ground,
    clients: Sequence[int],
    results: Sequence[ClientResult],
    samples: Sequence[ClientSamples],
    gate: Gate | None,
    load_expert: Callable[[int], Expert],
    num_experts: int,
    serving: Serving,
) -> list[ClientResult]:
    """Returns the results with how each client fares under attack.

    Args:
        ground: what does not change from client to client.
        clients: their ids.
        results: theirs; the experts that they hold are attacked.
        samples: theirs.
        gate: in evaluation mode.
        load_expert: gives the expert with this id; valid until the next call.
        num_experts: M.
        serving: how they are served.
    """
    wanted = sorted({expert_id for result in results for expert_id in result.experts})
    experts = {expert_id: copy.deepcopy(load_expert(expert_id).eval()) for expert_id in wanted}
    asked, found = ground.asked, []
    attack = Attack(asked.attack_eps, asked.attack_step or asked.attack_eps / 4, asked.attack_steps)
    for client, result, own in zip(clients, results, samples, strict=True):
        stream = torch_stream(ground.seed, "evaluate", "attack", client)
        target = Target(
            gate=gate,
            experts=[experts[expert_id] for expert_id in result.experts],
            held=result.experts,
            serving=serving,
            num_experts=num_experts,
            common=ground.common,
        )
        start_BCHW = 2 * torch.rand((len(own), *ground.store.in_shape), generator=stream) - 1
        found.append(replace(result, robust=robust_figures(target, own, attack, ground.store.span, start_BCHW)))
    return found


def loss_of(target: Target, way: str, y_B: Tensor, read_BD: Tensor) -> Callable[[Tensor], Tensor]:
    """Returns what an attack on this way to predict raises: inputs -> the sum of their cross-entropies."""

    def figure(x_BCHW: Tensor) -> Tensor:
        found = target.answers(x_BCHW, read_BD)
        if way == "zero_shot" and target.serving.answer == "best":
            chosen_BK = one_hot(found.best_B, found.weights_BK.shape[1]).to(found.weights_BK)
            through_BK = chosen_BK + found.weights_BK - found.weights_BK.detach()
            return cross_entropy((through_BK.T[:, :, None] * found.logits_KBC).sum(dim=0), y_B, reduction="sum")
        log_probs_BC: Tensor = predictions_of(found, target.serving)[way]
        return -log_probs_BC.gather(1, y_B[:, None]).sum()

    return figure


def share(parts: Sequence[Tensor]) -> float:
    """Returns the share that is true."""
    return float(torch.cat(list(parts)).double().mean())
