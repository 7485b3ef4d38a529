"""One method of a run as its newest checkpoint has it: how it serves, and where its weights stand."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from fedmoe.errors import RunFolderError, SettingsError, nearest_hint
from fedmoe.evaluation.serving import Serving
from fedmoe.federation.ledger import Ledger
from fedmoe.flower.devices import choose_device, set_up_torch
from fedmoe.flower.federation import Federation
from fedmoe.flower.methods import Method, methods_of
from fedmoe.flower.plugin_check import check_plugins
from fedmoe.flower.preparation import Preparation, prepare_run
from fedmoe.flower.recorder import MethodRecorder
from fedmoe.flower.running import ledger_of, place_of
from fedmoe.flower.strategy import ExpertStrategy
from fedmoe.moe.construction import build_gate, gate_class, gate_spec
from fedmoe.moe.gate import Gate
from fedmoe.recording.checkpoints import CheckpointIndex, newest_checkpoint, open_checkpoint
from fedmoe.recording.run_folder import RunFolder, open_run_folder

__all__ = ["Trained", "open_trained"]


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A method of a run, trained as far as its newest checkpoint.

    Attributes:
        folder: the run's.
        name: the method's.
        preparation: the run's data, population and common expert.
        device: where it computes.
        serving: how it serves an unseen client.
        gate: its gate's name.
        reads: what its gate reads (`Gate.reads`); `None`: it has no gate.
        ledger: the sizes that its traffic is made of.
        checkpoint: where its weights stand.
        averaged: whether the server's moving average is served, as in the tests of the run.
        notes: what a person must know of how this method serves.
        head_of: which of the server's heads is known to be a client's own (`Contract.head_of`).
    """

    folder: RunFolder
    name: str
    preparation: Preparation
    device: torch.device
    serving: Serving
    gate: str
    reads: str | None
    ledger: Ledger
    checkpoint: CheckpointIndex
    averaged: bool
    notes: tuple[str, ...]
    head_of: Callable[[int], int] = lambda client_id: -1

    @property
    def num_experts(self) -> int:
        """Returns M."""
        return self.ledger.num_experts

    def empty_gate(self) -> Gate | None:
        """Returns the method's gate with any weights, on the device; `None` where it has none."""
        if self.reads is None:
            return None
        store = self.preparation.store
        width = store.gate_width(self.reads, self.num_experts)
        spec = gate_spec(self.preparation.settings, self.gate, width, self.num_experts, store.in_shape)
        return build_gate(self.gate, spec, 0).to(self.device)

    def part(self, name: str) -> str:
        """Returns the name in the checkpoint of `gate` or `expert/3` as it is served."""
        return f"average/{name}" if self.averaged else name


def open_trained(run: Path, name: str, tell: Callable[[str], None]) -> Trained:
    """Returns a method of the run in the folder `run`; of its weights none is read.

    What the run prepared comes from fedmoe's caches, or is made again. torch is set up as the run had it.

    Args:
        run: a run folder; the run may have been cut off.
        name: of a method of the run; empty: the main one.
        tell: is told, in a line each, what is being done.

    Raises:
        RunFolderError: there is no run, no checkpoint, or one of other data or another strategy.
        SettingsError: the run has no such method.
    """
    folder = open_run_folder(run)
    settings = folder.read_settings()
    check_plugins(settings)
    method = _chosen(methods_of(settings), name)
    path = newest_checkpoint(place_of(method, folder).path)
    if path is None:
        raise RunFolderError(
            f"a method must have a checkpoint to serve from, got none of '{method.name}' in '{folder.path}'; hint: let "
            "the run get through its first rounds (checkpoint-every), or go on with it: fedmoe run --resume"
        )
    set_up_torch(settings.common_expert.threads, settings.deterministic)
    device = choose_device(settings.train.device, None)
    preparation = prepare_run(settings, device, tell)
    set_up_torch(settings.train.threads, settings.deterministic)
    _check_same_data(folder, preparation)
    ledger, checkpoint = ledger_of(method.strategy, preparation), open_checkpoint(path)
    preparation = preparation.at(checkpoint.round_num)
    serving, has_gate = _serving(method, preparation, folder, ledger)
    averaged = settings.evaluate.ema > 0
    own = method.strategy.gate if isinstance(method.strategy, ExpertStrategy) else ""
    gate = own or settings.gate.name
    trained = Trained(
        folder=folder,
        name=method.name,
        preparation=preparation,
        device=device,
        serving=serving,
        gate=gate,
        reads=gate_class(gate).reads if has_gate else None,
        ledger=ledger,
        checkpoint=checkpoint,
        averaged=averaged,
        notes=tuple(_remarks(method, serving, ledger.num_experts, has_gate)),
        **({"head_of": method.strategy.head_of} if isinstance(method.strategy, ExpertStrategy) else {}),
    )
    _check_parts(trained, method.strategy.served_by if isinstance(method.strategy, ExpertStrategy) else ())
    return trained


def _chosen(methods: Sequence[Method], name: str) -> Method:
    wanted = name.replace("-", "_").lower() or methods[0].name
    found = {method.name: method for method in methods}
    if wanted not in found:
        raise SettingsError(f"--method must be a method of the run, got '{name}'; {nearest_hint(wanted, found)}")
    return found[wanted]


def _check_same_data(folder: RunFolder, preparation: Preparation) -> None:
    begun = folder.read_json("environment.json") or {}
    present = {
        "dataset": ("fingerprint", preparation.data.fingerprint),
        "partition": ("hash", preparation.partition),
        "common_expert": ("fingerprint", preparation.common.fingerprint),
    }
    for name, (key, new) in present.items():
        old = begun.get(name, {}).get(key)
        if old is not None and old != new:
            raise RunFolderError(
                f"experts serve with the {name} that they were trained with ({old[:12]}), got {new[:12]}; hint: same "
                "data.root, fedmoe and torch as then, or fedmoe's folder of then (FEDMOE_HOME)"
            )


def _serving(method: Method, preparation: Preparation, folder: RunFolder, ledger: Ledger) -> tuple[Serving, bool]:
    """Returns how the method serves an unseen client, and whether it has a gate."""
    strategy, settings = method.strategy, preparation.settings
    if not isinstance(strategy, ExpertStrategy):
        return Serving(top_k=1, common_vote=settings.evaluate.common_vote), False  # one model, as the run tests it
    place = place_of(method, folder)
    strategy.bind(
        Federation(
            settings=settings,
            population=preparation.population,
            plan=preparation.plan(strategy.gate),
            ledger=ledger,
            recorder=MethodRecorder(method.name, place, (), settings.checkpoint_every, settings.num_server_rounds),
            states=str(place.states),
        )
    )
    return replace(strategy.serving(), common_vote=settings.evaluate.common_vote), strategy.has_gate


def _remarks(method: Method, serving: Serving, num_experts: int, has_gate: bool) -> list[str]:
    remarks = []
    if serving.common_vote:
        remarks.append(
            f"The common expert has a vote of {serving.common_vote:.0%} in every answer (evaluate.common-vote); the "
            "expert that is named beside a picture gave the rest."
        )
    if not isinstance(method.strategy, ExpertStrategy):
        remarks.append(f"{method.name} is a plain Flower strategy: it knows one model, no experts and no gate.")
    if num_experts == 1:
        remarks.append("One model for everybody: nothing is ranked, and all of it is fetched.")
    elif serving.by == "confidence":
        remarks.append(
            f"No gate: the experts' own confidence ranks them, so all {num_experts} have to be fetched to choose "
            f"{serving.top_k}."
        )
    elif not has_gate:
        which = (
            f"all {num_experts} are"
            if serving.top_k >= num_experts
            else f"{serving.top_k} of {num_experts}, by lot, are"
        )
        remarks.append(f"No gate: nothing ranks the experts, and {which} served.")
    elif serving.top_k >= num_experts:
        remarks.append(f"This method gives every client all {num_experts} experts: nothing is saved.")
    if serving.answer == "mixture" and min(serving.top_k, num_experts) > 1:
        remarks.append("Each image is answered by the mixture of the experts that were fetched, not by one of them.")
    if serving.private:
        remarks.append(
            "Training clients have parts of their own in this method; a client that it has never seen has none, and "
            "gets what they share."
        )
    return remarks


def _check_parts(trained: Trained, extras: Sequence[str]) -> None:
    """Refuses a checkpoint that lacks what the strategy serves by."""
    parts = [*(["gate"] if trained.reads is not None else []), *(f"expert/{i}" for i in range(trained.num_experts))]
    lacking = [name for part in parts if (name := trained.part(part)) not in trained.checkpoint.shapes]
    lacking += [name for extra in extras if (name := f"extra/{extra}") not in trained.checkpoint.shapes]
    if lacking:
        raise RunFolderError(
            f"'{trained.checkpoint.path}' must hold what {trained.name} serves by, got none of {', '.join(lacking)}; "
            "hint: has the strategy's code changed since the run?"
        )
