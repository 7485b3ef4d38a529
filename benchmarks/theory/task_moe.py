"""TaskMoE (arXiv 2204.07689): related, conflicting and unrelated tasks, learnt with and without a gate for each.

A sample is `x = (z, c)`: what a rule reads, and where it comes from. Tasks 0 and 1 follow rule R, tasks 2 and 3 rule S,
task 4 rule T; tasks 1 and 2 come from one place, so their inputs are alike and their rules at odds. All rows have about
as many parameters and see the same samples in the same steps. Task 4 is there from the start, or comes to a trained
model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, nll_loss, one_hot

from benchmarks.theory.experiment import Experiment, Figures, Results, main
from fedmoe.federation.heads import nearest
from fedmoe.moe.construction import build_expert, build_gate
from fedmoe.moe.expert import ExpertSpec
from fedmoe.moe.gate import GateSpec
from fedmoe.moe.mixture import mix
from fedmoe.seeding import derive_seed, torch_stream

__all__ = ["EXPERIMENT", "ROWS", "MultiTask", "TaskData", "fitted", "old_tasks", "parameters_of", "tasks_of"]

RULE, PLACE, CLASSES, EXPERTS = 12, 4, 5, 4  # values of z and of c, labels, M
STEPS, BATCH, LEARNING_RATE = 3000, 32, 1e-2
RULES = (0, 0, 1, 1, 2)  # of tasks 0 to 4: R, R, S, S, T
PLACES = (0, 1, 1, 2, 3)
OLD = (0, 1, 2, 3)
UNRELATED = 4
RELATED = ((0, 1), (2, 3))
CONFLICT = (1, 2)
NEW: Mapping[str, tuple[int, int]] = {"unseen": (1, 2), "unseen_alike": (0, 1)}
"""Figure -> rule and place of clients that nobody has seen: S near task 3, R near the two tasks at odds."""
CLIENTS, SAMPLES, AWAY = 20, 100, 0.5  # unseen clients, samples of each, how far off its place is


@dataclass(frozen=True)
class Row:
    """What learns: one network or a mixture, whether it reads the task too, whether each task has its gate.

    With `grows` the fifth task brings an expert with it.
    """

    width: int
    mixture: bool = True
    told: bool = False
    heads: bool = False
    grows: bool = False

    def experts(self, tasks: int) -> int:
        """Returns M for so many tasks."""
        return (EXPERTS + (self.grows and tasks > len(OLD))) if self.mixture else 1


ROWS: Mapping[str, Row] = {
    "one network": Row(width=61, mixture=False),
    "one network, told the task": Row(width=51, mixture=False, told=True),
    "mixture, shared gate": Row(width=14),
    "mixture, shared gate, told the task": Row(width=12, told=True),
    "mixture, a gate for each task": Row(width=12, heads=True),
    "likewise, a fifth expert with the fifth task": Row(width=12, heads=True, grows=True),
}


@dataclass(frozen=True)
class TaskData:
    """One task's samples: x (N, RULE + PLACE), y (N,)."""

    x: Tensor
    y: Tensor


def tasks_of(
    seed: int, rules: Sequence[int], places: Sequence[int], size: int, part: str, away: float = 0.0
) -> list[TaskData]:
    """Returns samples of a task for each rule and place; rules and places are the seed's, samples the part's as well.

    Args:
        seed: of the world.
        rules: number of each task's rule.
        places: number of its place.
        size: samples of each.
        part: name of what they are for.
        away: standard deviation of a step off its place that each task takes, in each of its directions.
    """
    stream = torch_stream(seed, "task_moe", "world")
    rules_3CZ = torch.randn(3, CLASSES, RULE, generator=stream)
    places_4P = 3 * torch.eye(4, PLACE)
    found = []
    for number, (rule, place) in enumerate(zip(rules, places, strict=True)):
        own = torch_stream(seed, "task_moe", part, number)
        z, c = torch.randn(size, RULE, generator=own), torch.randn(size, PLACE, generator=own)
        c = c + places_4P[place] + away * torch.randn(PLACE, generator=own)
        found.append(TaskData(torch.cat([z, c], dim=1), (z @ rules_3CZ[rule].T).argmax(dim=1)))
    return found


class MultiTask(nn.Module):
    """A row's model over T tasks.

    Args:
        row: which.
        tasks: T.
        seed: of its first weights.
    """

    def __init__(self, row: Row, tasks: int, seed: int) -> None:
        super().__init__()
        self.row, self.tasks = row, tasks
        features = RULE + PLACE + (tasks if row.told else 0)
        spec = ExpertSpec(in_shape=(features, 1, 1), num_classes=CLASSES, width=row.width)
        seeds = [derive_seed(seed, "task_moe", "expert", number) for number in range(row.experts(tasks))]
        self.experts = nn.ModuleList(build_expert("mlp", spec, own) for own in seeds)
        gate = GateSpec(in_features=features, num_experts=row.experts(tasks), hidden=0)
        count = (tasks if row.heads else 1) if row.mixture else 0
        self.gates = nn.ModuleList(build_gate("softmax", gate, seed) for _ in range(count))

    @torch.no_grad()
    def grown(self, tasks: int, seed: int) -> "MultiTask":
        """Returns a copy for more tasks; what it has not learnt (a head, an expert, a task's mark) starts anew."""
        copy = MultiTask(self.row, tasks, seed)
        new = copy.state_dict()
        for name, value in self.state_dict().items():
            new[name][tuple(slice(size) for size in value.shape)] = value
        return copy

    def forward(self, samples: Mapping[int, Tensor]) -> Tensor:
        """Returns log_probs_BC of samples of tasks (task -> x_BD), task after task."""
        read_BD = torch.cat([self.read(x_BD, task) for task, x_BD in samples.items()])
        logits_MBC = torch.stack([expert(read_BD[:, :, None, None]) for expert in self.experts])
        if not self.row.mixture:
            return torch.log_softmax(logits_MBC[0], dim=1)
        return mix(logits_MBC, torch.cat([self.weights(x_BD, task) for task, x_BD in samples.items()]))

    def weights(self, x_BD: Tensor, task: int) -> Tensor:
        """Returns weights_BM of the experts, by the task's gate where it has one."""
        gate = self.gates[task if self.row.heads else 0]
        return torch.softmax(gate.scores(self.read(x_BD, task)), dim=1)  # type: ignore[operator]

    def read(self, x_BD: Tensor, task: int) -> Tensor:
        """Returns what the experts and the gate read: where they are told the task, it goes with x."""
        if not self.row.told:
            return x_BD
        return torch.cat([x_BD, one_hot(torch.full((len(x_BD),), task), self.tasks).float()], dim=1)


def parameters_of(row: Row, tasks: int) -> int:
    """Returns how many numbers the row's model learns."""
    return sum(p.numel() for p in MultiTask(row, tasks, 0).parameters())


def fitted(row: Row, tasks: Sequence[TaskData], seed: int, steps: int) -> MultiTask:
    """Returns the model, trained from its first weights; see `trained`."""
    return trained(MultiTask(row, len(tasks), seed), tasks, seed, steps, "batches")


def trained(model: MultiTask, tasks: Sequence[TaskData], seed: int, steps: int, part: str) -> MultiTask:
    """Returns the model, each step of Adam on a batch of every task; a further task takes nothing from the others.

    Args:
        model: is trained in place.
        tasks: as many as it has, in its order.
        seed: of the batches.
        steps: of Adam.
        part: name of this training; of another one the batches are others.
    """
    adam = torch.optim.Adam(model.parameters(), LEARNING_RATE, fused=True)
    streams = [torch_stream(seed, "task_moe", part, task) for task in range(len(tasks))]
    for _ in range(steps):
        adam.zero_grad()
        rows = [
            torch.randint(len(own.y), (BATCH,), generator=stream) for own, stream in zip(tasks, streams, strict=True)
        ]
        log_probs_BC = model({task: own.x[rows[task]] for task, own in enumerate(tasks)})
        loss = nll_loss(log_probs_BC, torch.cat([own.y[rows[task]] for task, own in enumerate(tasks)]), reduction="sum")
        (loss / BATCH).backward()  # type: ignore[no-untyped-call]
        adam.step()
    return model.eval()


@torch.no_grad()
def accuracy(model: MultiTask, own: TaskData, task: int) -> float:
    """Returns the share of right answers as that task, percent."""
    return 100 * float((model({task: own.x}).argmax(dim=1) == own.y).double().mean())


def old_tasks(model: MultiTask, test: Sequence[TaskData]) -> float:
    """Returns the mean accuracy over the four old tasks, percent."""
    return float(np.mean([accuracy(model, test[task], task) for task in OLD]))


def measure(row: str, seed: int, small: bool) -> Figures:
    """Returns accuracies (percent), what a further task costs, cosines of mean gate weights, and unseen tasks."""
    kind, size, steps = ROWS[row], 500 if small else 2000, 600 if small else STEPS
    train, test = (tasks_of(seed, RULES, PLACES, number, part) for number, part in ((size, "train"), (2000, "test")))
    model = fitted(kind, [train[task] for task in OLD], seed, steps)
    by_task = [accuracy(model, test[task], task) for task in OLD]
    more = fitted(kind, train, seed, steps)
    on = [model.grown(len(tasks), seed) for tasks in (OLD, RULES)]
    on_alone, on_more = (trained(own, train[: own.tasks], seed, steps, "further batches").eval() for own in on)
    figures = {
        "all": float(np.mean(by_task)),
        "conflict": float(np.mean([by_task[task] for task in CONFLICT])),
        "others": float(np.mean([by_task[task] for task in OLD if task not in CONFLICT])),
        "cost": float(np.mean(by_task)) - old_tasks(more, test),
        "added": accuracy(more, test[UNRELATED], UNRELATED),
        "cost_later": old_tasks(on_alone, test) - old_tasks(on_more, test),
        "added_later": accuracy(on_more, test[UNRELATED], UNRELATED),
    }
    if kind.mixture:
        with torch.no_grad():
            mean_TM = torch.stack([model.weights(test[task].x, task).mean(dim=0) for task in OLD])
        pairs = combinations(OLD, 2)
        cosines = {(a, b): float(cosine_similarity(mean_TM[a], mean_TM[b], dim=0)) for a, b in pairs}
        figures["related"] = float(np.mean([cosines[pair] for pair in RELATED]))
        figures["strangers"] = float(np.mean([cosines[pair] for pair in cosines if pair not in RELATED]))
    keys_TD = np.stack([train[task].x.mean(dim=0).numpy() for task in OLD])
    for name, (rule, place) in NEW.items():
        clients = tasks_of(seed, (rule,) * CLIENTS, (place,) * CLIENTS, SAMPLES, name, AWAY)
        found = [accuracy(model, own, nearest(keys_TD, own.x.mean(dim=0).numpy())) for own in clients]
        figures[name] = float(np.mean(found))
    return figures


def draw(results: Results, figure: Figure) -> None:
    """Draws accuracy by kind of task, and how alike the gates of related and of other tasks are."""
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    kinds = {
        "others": "tasks with\nplaces of\ntheir own",
        "conflict": "two tasks\nat odds",
        "unseen": "unseen,\nits place\nis one task's",
        "unseen_alike": "unseen,\nplace of the\ntwo at odds",
    }
    for number, (row, runs) in enumerate(results.items()):
        found = np.array([[run[name] for name in kinds] for run in runs])
        places = np.arange(len(kinds)) + 0.13 * (number - 2)
        spread = found.std(axis=0, ddof=min(1, len(runs) - 1))
        left.errorbar(places, found.mean(axis=0), yerr=spread, fmt="o", color=f"C{number}", markersize=4, label=row)
        if "related" in runs[0]:
            found = np.array([[run["related"], run["strangers"]] for run in runs])
            spread = found.std(axis=0, ddof=min(1, len(runs) - 1))
            places = np.arange(2) + 0.1 * (number - 3)
            right.errorbar(places, found.mean(axis=0), yerr=spread, fmt="o", color=f"C{number}", markersize=4)
    left.set_xticks(range(len(kinds)), list(kinds.values()))
    left.set_ylabel("accuracy on test samples, %")
    right.set_xticks(range(2), ["tasks of\none rule", "tasks of\ntwo rules"])
    right.set_xlim(-0.5, 1.5)
    right.set_ylabel("cosine of two tasks' mean weights")
    for panel in (left, right):
        panel.grid(axis="y", alpha=0.3)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False, fontsize=8)


EXPERIMENT = Experiment(
    name="task_moe",
    title="Model",
    rows=tuple(ROWS),
    measure=measure,
    draw=draw,
    columns={
        "all": "four tasks, %",
        "others": "tasks 0 and 3, %",
        "conflict": "tasks 1 and 2, at odds, %",
        "cost": "lost by a fifth task, points",
        "cost_later": "lost by a fifth task that comes later, points",
        "related": "cosine, one rule",
        "strangers": "cosine, two rules",
        "unseen": "unseen, place of task 3, %",
        "unseen_alike": "unseen, place of 1 and 2, %",
    },
    digits={**dict.fromkeys(("all", "others", "conflict", "unseen", "unseen_alike"), 1)},
)

if __name__ == "__main__":
    main(EXPERIMENT)
