"""The floor of a FedJETs round: the round's gate, experts and samples in one training loop, and nobody to average with.

A client's samples go to the experts that it would hold: an anchor's to its own, a normal client's to the K that the
gate ranks highest for it, once a round. Samples of clients that hold the same experts are one set, and a step is a
batch of such a set; so as many samples pass through as many experts as in the federated round. The frozen common
expert's embeddings are computed once, before the first round.
"""

import torch
from torch import Tensor

from benchmarks.networks import build_gate, build_network
from benchmarks.sides import Rounds
from benchmarks.sides.client_data import client_tensors
from benchmarks.sides.epoch import flat, shuffled
from benchmarks.sides.fedjets_client import anchor_loss, best_experts, mixed_loss, modules
from benchmarks.workloads import Work

__all__ = ["CentralisedMixture"]

Held = tuple[int, ...]


class CentralisedMixture:
    """A gate and M experts, trained together in one process.

    Args:
        work: a FedJETs work; its precision is our side's.
        layout: memory layout of images and of the experts' weights.
    """

    def __init__(self, work: Work, layout: torch.memory_format) -> None:
        self.work, self.layout = work, layout
        clients, common = client_tensors(work), modules(work).common
        self.x, self.y = (torch.cat(parts) for parts in zip(*clients, strict=True))
        with torch.no_grad():
            self.embedding_ND = torch.cat([common.embed(x) for x, _ in clients])
        self.rows = torch.arange(len(self.y)).reshape(work.clients, work.samples)
        self.gate = build_gate(work, common.width)
        self.experts = [build_network(work).to(memory_format=layout) for _ in range(work.experts)]
        of_experts = [parameter for network in self.experts for parameter in network.parameters()]
        rates = ((of_experts, work.learning_rate), (list(self.gate.parameters()), work.gate_learning_rate))
        self.optimiser = torch.optim.SGD([{"params": p, "lr": rate} for p, rate in rates], momentum=work.momentum)

    def rounds(self) -> Rounds:
        """Returns its rounds."""
        return Rounds(self.train, lambda: flat(p for part in (self.gate, *self.experts) for p in part.parameters()))

    def train(self) -> int:
        """Does one epoch over all samples, the sets' batches in a new order; returns how many samples there were."""
        steps = [(held, rows[part]) for held, rows in self.sets() for part in shuffled(len(rows), self.work.batch_size)]
        for index in torch.randperm(len(steps)).tolist():
            self.step(*steps[index])
        return sum(len(rows) for _, rows in steps)

    def sets(self) -> list[tuple[Held, Tensor]]:
        """Returns, for each set of held experts that occurs, the numbers of its samples; one expert: an anchor's."""
        found: dict[Held, list[Tensor]] = {}
        with torch.no_grad():
            for client, rows in enumerate(self.rows):
                held: Held = (client,)
                if client >= self.work.experts:
                    scores_M = torch.softmax(self.gate(self.embedding_ND[rows]), dim=1).mean(dim=0)
                    held = tuple(sorted(best_experts(scores_M.tolist(), self.work.top_k)))
                found.setdefault(held, []).append(rows)
        return [(held, torch.cat(rows)) for held, rows in found.items()]

    def step(self, held: Held, rows: Tensor) -> None:
        """Moves the gate and the held experts by one batch, with the losses of FedJETs' clients."""
        x_BCHW, y_B = self.x[rows].contiguous(memory_format=self.layout), self.y[rows]
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.work.precision == "bf16"):
            scores_BM = self.gate(self.embedding_ND[rows])
            logits_KBC = torch.stack([self.experts[expert](x_BCHW) for expert in held])
            loss = (anchor_loss if len(held) == 1 else mixed_loss)(scores_BM, logits_KBC, y_B, held)
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
