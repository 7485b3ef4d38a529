"""Strategies whose clients keep something, against plain torch and against what their papers' equations imply."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedmoe.data.population import build_population
from fedmoe.errors import RoundError, SettingsError
from fedmoe.evaluation.prior_em import correct_priors
from fedmoe.evaluation.served import seen_clients, seen_ids
from fedmoe.federation.job import PARTS, ClientFailure, ClientJob, Term
from fedmoe.federation.state import ServerState
from fedmoe.flower.strategy import ExpertStrategy
from fedmoe.moe.construction import build_expert
from fedmoe.moe.expert import ExpertSpec
from fedmoe.moe.vectors import load_vector, parts_of
from fedmoe.recording.client_states import ClientStates
from fedmoe.recording.comparison import compare_runs
from fedmoe.settings import Settings, from_flat
from fedmoe.training.fine_tuning import fine_tuned
from fedmoe.training.objective import Batch, LocalModel
from tests.by_hand import ByHand
from tests.small import blobs, newest_state, rounds_of, run_small, small_config, small_settings

ROUNDS = 5


def run(folder: Path, name: str, **changes: Any) -> tuple[Path, Settings]:
    config = small_config(strategy__name=name, num_server_rounds=ROUNDS, train__epochs=2, **changes)
    config |= {f"strategy.{name}.init": "random"}
    return run_small(folder, settings=config), from_flat(config)


def last_kept(folder: Path, client: int, name: str) -> np.ndarray:
    return ClientStates(folder / "client-states").load(client, ROUNDS)[name]


def personal(folder: Path, client: int) -> np.ndarray:
    """Returns a client's own model; in a perceptron's vector the body comes first."""
    return np.concatenate([last_kept(folder, client, f"private/{piece}/expert/0") for piece in ("body", "head")])


@pytest.mark.parametrize("trainer", ["loop", "stacked"])
@pytest.mark.parametrize("seed", [0, 1])
def test_scaffold_without_momentum_is_algorithm_1_option_2(tmp_path: Path, seed: int, trainer: str) -> None:
    folder, settings = run(tmp_path, "scaffold", seed=seed, train__momentum=0.0, train__trainer=trainer)
    hand = ByHand(settings)
    weights, control = hand.start, torch.zeros_like(hand.start)
    controls: dict[int, torch.Tensor] = {}
    for r in range(1, ROUNDS + 1):
        ends, changes = [], []
        for client in hand.sampled(r):
            own = controls.get(client, torch.zeros_like(control))
            end = hand.train(client, r, weights, lambda now, lacks=control - own: lacks)
            steps = 2 * -(-len(hand.who.shards[client]) // settings.train.batch_size)
            new = own - control + (weights - end) / (steps * settings.train.learning_rate)
            ends.append(end)
            changes.append(new - own)
            controls[client] = new
        weights = torch.stack(ends).mean(dim=0)
        control = control + torch.stack(changes).sum(dim=0) / hand.who.num_training
    state = newest_state(folder)
    np.testing.assert_allclose(state.experts[0], weights, rtol=0, atol=2e-5)
    np.testing.assert_allclose(state.extras["control/expert/0"], control, rtol=0, atol=2e-4)
    for client, own in controls.items():
        np.testing.assert_allclose(last_kept(folder, client, "memory/control/expert/0"), own, rtol=0, atol=2e-3)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_servers_control_is_the_mean_of_all_clients(tmp_path: Path, momentum: float) -> None:
    folder, settings = run(tmp_path, "scaffold", train__momentum=momentum)
    seen = {client for line in rounds_of(folder) for client in line["clients"]}
    assert len(seen) < settings.clients.num, "a client that never took part counts with 0"
    total = sum(last_kept(folder, client, "memory/control/expert/0").astype(np.float64) for client in seen)
    ours = newest_state(folder).extras["control/expert/0"]
    np.testing.assert_allclose(ours, total / settings.clients.num, rtol=0, atol=1e-5)
    assert np.abs(ours).max() > 0.01


def test_scaffold_refuses_adamw(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"scaffold.*adamw"):
        run(tmp_path, "scaffold", train__optimiser="adamw")


def test_dittos_global_model_is_fedavgs_to_the_byte(tmp_path: Path) -> None:
    ditto, _ = run(tmp_path / "ditto", "ditto")
    fedavg, _ = run(tmp_path / "fedavg", "fedavg")
    assert newest_state(ditto).experts[0].tobytes() == newest_state(fedavg).experts[0].tobytes()
    for one, two in zip(rounds_of(ditto), rounds_of(fedavg), strict=True):
        one.pop("strategy"), two.pop("strategy")
        assert one == two, "bytes, load and figures too"


@pytest.mark.parametrize("trainer", ["loop", "stacked"])
@pytest.mark.parametrize("strength", [0.0, 0.7])
def test_dittos_personal_models_are_those_of_plain_torch(tmp_path: Path, strength: float, trainer: str) -> None:
    folder, settings = run(tmp_path, "ditto", strategy__ditto__strength=strength, train__trainer=trainer)
    hand, weights = ByHand(settings), None
    weights, own_models = hand.start, {}
    for r in range(1, ROUNDS + 1):
        ends, sizes = [], []
        for client in hand.sampled(r):
            ends.append(hand.train(client, r, weights))
            sizes.append(len(hand.who.shards[client]))
            begun = own_models.get(client, weights)
            own_models[client] = hand.train(client, r, begun, lambda now, w=weights: strength * (now - w))
        weights = (torch.stack(ends) * torch.tensor(sizes)[:, None]).sum(dim=0) / sum(sizes)
    assert len(own_models) > settings.clients.per_round
    for client, own in own_models.items():
        np.testing.assert_allclose(personal(folder, client), own, rtol=0, atol=2e-5)


@pytest.mark.parametrize("trainer", ["loop", "stacked"])
def test_local_training_is_that_of_plain_torch_and_leaves_the_server_alone(tmp_path: Path, trainer: str) -> None:
    folder, settings = run(tmp_path, "local_only", train__trainer=trainer)
    hand, own = ByHand(settings), {}
    for r in range(1, ROUNDS + 1):
        for client in hand.sampled(r):
            own[client] = hand.train(client, r, own.get(client, hand.start))
    for client, weights in own.items():
        np.testing.assert_allclose(personal(folder, client), weights, rtol=0, atol=2e-5)
    np.testing.assert_array_equal(newest_state(folder).experts[0], hand.start)
    for line in rounds_of(folder):
        assert line["bytes"]["down"] == line["bytes"]["up"] == 0
        assert line["completed"] == settings.clients.per_round


@pytest.mark.parametrize("trainer", ["loop", "stacked"])
def test_fedrep_trains_heads_then_bodies(tmp_path: Path, trainer: str) -> None:
    folder, settings = run(tmp_path, "fedrep", strategy__fedrep__head_epochs=2, train__trainer=trainer)
    hand = ByHand(settings)
    size = 36  # values of the last layer, the last ones of the vector
    weights, heads = hand.start, {}
    for r in range(1, ROUNDS + 1):
        ends, sizes = [], []
        for client in hand.sampled(r):
            begun = torch.cat([weights[:-size], heads.get(client, weights[-size:])])
            headed = hand.train(client, r, begun, layers=(3,))
            assert torch.equal(headed[:-size], begun[:-size])
            heads[client] = headed[-size:]
            ends.append(hand.train(client, r, headed, layers=(1,)))
            sizes.append(len(hand.who.shards[client]))
        weights = (torch.stack(ends) * torch.tensor(sizes)[:, None]).sum(dim=0) / sum(sizes)
    np.testing.assert_allclose(newest_state(folder).experts[0], weights, rtol=0, atol=2e-5)
    for client, head in heads.items():
        np.testing.assert_allclose(last_kept(folder, client, "private/head/expert/0"), head, rtol=0, atol=2e-5)
    assert len({head.numpy().tobytes() for head in heads.values()}) == len(heads) > settings.clients.per_round


@pytest.mark.parametrize("trainer", ["loop", "stacked"])
def test_fedavg_own_keeps_the_tensors_that_fit(tmp_path: Path, trainer: str) -> None:
    own = {"strategy__fedavg_own__own": "body.*.bias, head.w*"}
    folder, settings = run(tmp_path, "fedavg_own", train__trainer=trainer, **own)
    hand = ByHand(settings)
    weights, private = hand.start, torch.zeros(len(hand.start), dtype=torch.bool)
    # a perceptron of 16 pixels, 5 units, 6 classes: weights, biases, the head's weights, its biases
    private[16 * 5 : 16 * 5 + 5 + 5 * 6] = True
    kept: dict[int, torch.Tensor] = {}
    for r in range(1, ROUNDS + 1):
        ends, sizes = [], []
        for client in hand.sampled(r):
            ends.append(hand.train(client, r, torch.where(private, kept.get(client, weights), weights)))
            sizes.append(len(hand.who.shards[client]))
            kept[client] = ends[-1]
        weights = (torch.stack(ends) * torch.tensor(sizes)[:, None]).sum(dim=0) / sum(sizes)
    np.testing.assert_allclose(newest_state(folder).experts[0], weights, rtol=0, atol=2e-5)
    assert len(kept) > settings.clients.per_round
    for client, end in kept.items():
        for pattern, part in (("body.*.bias", slice(80, 85)), ("head.w*", slice(85, 115))):
            found = last_kept(folder, client, f"private/{pattern}/expert/0")
            np.testing.assert_allclose(found, end[part], rtol=0, atol=2e-5)


def test_a_range_of_its_own_is_what_a_client_is_tested_with(tmp_path: Path) -> None:
    changes = {"experts__model": "expanded", "evaluate__seen": 6, "evaluate__samples": 40, "evaluate__every": ROUNDS}
    folder, settings = run(tmp_path / "own", "fedavg_own", **changes)
    fedavg, _ = run(tmp_path / "fedavg", "fedavg", **changes)
    assert [line["bytes"] for line in rounds_of(folder)] == [line["bytes"] for line in rounds_of(fedavg)]
    hand = ByHand(settings)
    vector = newest_state(folder).experts[0]
    expert = build_expert("expanded", ExpertSpec(in_shape=(1, 4, 4), num_classes=6, width=5), 0)
    (place,) = [part.offset for part in parts_of(expert) if part.name == "activation.range"]
    ranges, moved = [], 0
    for row in rounds_of(folder)[-1]["evaluate"]["seen"]["clients"]:
        client, mine = row["client_id"], vector.copy()
        ids = seen_ids(hand.who, client, np.arange(hand.data.num_train, len(hand.data.y_N)), 40, settings.seed)
        if kept := ClientStates(folder / "client-states").load(client, ROUNDS):
            assert list(kept) == ["private/*.range/expert/0"]
            ranges.append(float(kept["private/*.range/expert/0"][0]))
            mine[place] = ranges[-1]
        x = (torch.tensor(hand.data.x_NCHW[ids]).float() - hand.mean) / hand.std
        load_vector(expert, mine)
        with torch.no_grad():
            told = expert(x).argmax(dim=1).numpy()
        assert row["zero_shot"] == pytest.approx((told == hand.data.y_N[ids]).mean())
        moved += bool(kept)
    assert len(set(ranges)) == len(ranges) == moved > 1
    assert newest_state(folder).experts[0].tobytes() != newest_state(fedavg).experts[0].tobytes()


def test_a_pattern_that_fits_nothing_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"must fit the name .* got '\*\.range'; hint: it has body.1.weight"):
        run(tmp_path, "fedavg_own")


def test_a_name_without_a_star_is_a_part(tmp_path: Path) -> None:
    job = {"client_id": 0, "round_num": 1, "experts": (0,), "objective": (), "gate": False}
    assert ClientJob(**job, private=("head", "*.range")).private == ("head", "*.range")
    assert ClientJob(**job, trains=("gate", "-*.range")).trains == ("gate", "-*.range")
    for wrong in ({"private": ("range",)}, {"trains": ("range",)}):
        with pytest.raises(ValueError, match=r"must be of body, head, gate.*, got 'range'"):
            ClientJob(**job, **wrong)


class Raises:
    """An objective that cannot be computed for clients of odd ids."""

    def __call__(self, model: LocalModel, batch: Batch) -> torch.Tensor:
        if float(model.given["client"][0]) % 2:
            raise ArithmeticError("odd")
        return batch.mean(
            torch.nn.functional.cross_entropy(model.logits_KBC(batch.x_BCHW)[0], batch.y_B, reduction="none")
        )


@dataclass
class TwoJobs(ExpertStrategy):
    """A personal model and the global one, in either order; the second job fails for clients of odd ids."""

    personal_first: bool = False

    def jobs(self, round_num: int, client_id: int, held: tuple[int, ...]) -> Sequence[ClientJob]:
        ours = self.job(round_num, client_id, held)
        own = replace(ours, private=PARTS, sends=False)
        first, second = (own, ours) if self.personal_first else (ours, own)
        fails = (Term("tests.strategies.test_client_state:Raises"),)
        return first, replace(second, objective=fails, given={"client": (float(client_id),)})


@pytest.mark.parametrize("personal_first", [False, True])
def test_a_client_whose_later_job_fails_has_not_completed(tmp_path: Path, personal_first: bool) -> None:
    config = small_config(
        strategy__name="tests.strategies.test_client_state:TwoJobs", num_server_rounds=4, clients__min_completed=0.1
    )
    config["strategy.twojobs.personal-first"] = personal_first
    folder = run_small(tmp_path, settings=config)
    for line in rounds_of(folder):
        odd = [client for client in line["clients"] if client % 2]
        assert [failure["client"] for failure in line["failures"]] == odd
        assert line["completed"] == len(line["clients"]) - len(odd)
    assert any(client % 2 for line in rounds_of(folder) for client in line["clients"])
    config["clients.min-completed"] = 1.0
    with pytest.raises(RoundError, match="min-completed"):
        run_small(tmp_path / "strict", settings=config)


@pytest.mark.parametrize(("private", "sends"), [("head", True), (("heads",), True)])
def test_a_slip_in_a_job_is_named(private: Any, sends: bool) -> None:
    job = {"client_id": 0, "round_num": 1, "experts": (0,), "objective": (), "gate": False}
    with pytest.raises(ValueError, match=r"comma|of body, head, gate, got 'heads'"):
        ClientJob(**job, private=private, sends=sends)


# ---- training clients are tested with what they keep ---------------------------------------------


def test_a_training_client_is_tested_by_its_own_model_on_samples_like_its_own(tmp_path: Path) -> None:
    runs = {
        name: run(tmp_path / name, name, evaluate__seen=6, evaluate__every=ROUNDS, evaluate__samples=40)
        for name in ("ditto", "fedavg", "local_only")
    }
    told = {name: rounds_of(folder)[-1]["evaluate"] for name, (folder, _) in runs.items()}
    assert told["ditto"]["methods"] == told["fedavg"]["methods"], "an unseen client has no personal model"
    folder, settings = runs["ditto"]
    hand = ByHand(settings)
    test_ids = np.arange(hand.data.num_train, len(hand.data.y_N))
    weights = torch.from_numpy(newest_state(folder).experts[0])
    own_models = 0
    rows = told["ditto"]["seen"]["clients"]
    assert len(rows) == 6
    for row in rows:
        client = row["client_id"]
        ids = seen_ids(hand.who, client, test_ids, 40, settings.seed)
        assert set(ids) <= set(test_ids)
        assert set(hand.data.y_N[ids]) <= set(hand.data.y_N[hand.who.shards[client]])
        kept = ClientStates(folder / "client-states").load(client, ROUNDS)
        own_models += bool(kept)
        vector = torch.from_numpy(personal(folder, client)) if kept else weights
        torch.nn.utils.vector_to_parameters(vector.clone(), hand.net.parameters())
        x = (torch.tensor(hand.data.x_NCHW[ids]).float() - hand.mean) / hand.std
        with torch.no_grad():
            right = hand.net(x).argmax(dim=1).numpy() == hand.data.y_N[ids]
        assert (row["examples"], row["zero_shot"]) == (len(ids), pytest.approx(right.mean()))
    assert own_models > 0
    seen = {name: table["seen"]["methods"]["zero_shot"]["mean"] for name, table in told.items()}
    assert len(set(seen.values())) == 3
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["seen"]["ditto"] == told["ditto"]["seen"]["methods"]


@pytest.mark.parametrize("epochs", [1, 3])
@pytest.mark.parametrize("trainer", ["loop", "stacked"])
def test_a_training_client_is_tested_by_the_fine_tuned_model_of_plain_torch(
    tmp_path: Path, trainer: str, epochs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: dict[int, np.ndarray] = {}

    def noted(trainer: Any, client_id: int, *rest: Any) -> ServerState:
        state = fine_tuned(trainer, client_id, *rest)
        # the last round's stays
        made[client_id] = state.experts[0]
        return state

    monkeypatch.setattr("fedmoe.flower.serving_node.fine_tuned", noted)
    name, changes = "fedavg_finetuned", {"evaluate__seen": 6, "evaluate__samples": 40, "train__trainer": trainer}
    folder, settings = run(tmp_path / name, name, strategy__fedavg_finetuned__epochs=epochs, **changes)
    fedavg, _ = run(tmp_path / "fedavg", "fedavg", **changes)
    assert newest_state(folder).experts[0].tobytes() == newest_state(fedavg).experts[0].tobytes()
    hand = ByHand(replace(settings, train=replace(settings.train, epochs=epochs)))
    test_ids = np.arange(hand.data.num_train, len(hand.data.y_N))
    moved = 0
    for tuned, plain in zip(rounds_of(folder), rounds_of(fedavg), strict=True):
        own, same = (line["evaluate"].pop("seen") if line["evaluate"] else None for line in (tuned, plain))
        tuned.pop("strategy"), plain.pop("strategy")
        assert tuned == plain, "bytes, load and unseen clients are FedAvg's"
        moved += own is not None and own != same
    assert moved == 3, "in every evaluation"
    weights, told = torch.from_numpy(newest_state(folder).experts[0]), own["clients"]
    assert len(told) == 6
    for row in told:
        client = row["client_id"]
        ids = seen_ids(hand.who, client, test_ids, 40, settings.seed)
        vector = hand.train(client, ROUNDS + 1, weights)
        np.testing.assert_allclose(made[client], vector, rtol=0, atol=2e-5)
        torch.nn.utils.vector_to_parameters(vector.clone(), hand.net.parameters())
        x, y = (torch.tensor(hand.data.x_NCHW[ids]).float() - hand.mean) / hand.std, torch.tensor(hand.data.y_N[ids])
        with torch.no_grad():
            log_probs = torch.log_softmax(hand.net(x), dim=1)
        counts = np.bincount(hand.data.y_N[hand.who.shards[client]], minlength=6)
        (corrected,) = correct_priors([log_probs], torch.from_numpy(counts / counts.sum()))
        shares = [float((told.argmax(dim=1) == y).double().mean()) for told in (log_probs, corrected)]
        assert row["examples"] == len(ids)
        assert [row["zero_shot"], row["zero_shot_em"]] == pytest.approx(shares)
    assert not list((folder / "client-states").glob("*/*")), "nothing is kept"


def test_the_moving_average_is_what_gets_fine_tuned_and_a_pool_is_refused(tmp_path: Path) -> None:
    changes = {"evaluate__seen": 4, "strategy__fedavg_finetuned__epochs": 2}
    runs = [
        run(tmp_path / str(n), "fedavg_finetuned", evaluate__ema=ema, **changes)[0] for n, ema in enumerate((0, 0.9))
    ]
    seen = [rounds_of(folder)[-1]["evaluate"]["seen"]["clients"] for folder in runs]
    assert seen[0] != seen[1]
    pool = ServerState(gate=None, experts=(np.zeros(3, np.float32),) * 2)
    with pytest.raises(ValueError, match="needs one model without a gate, got a pool of 2"):
        fine_tuned(None, 0, pool, 1, 1)  # type: ignore[arg-type]


def test_fine_tuning_that_fails_says_why() -> None:
    class Diverges:
        """A trainer whose clients all diverge."""

        def train(self, jobs: Sequence[ClientJob], state: ServerState) -> Iterator[ClientFailure]:
            yield ClientFailure(stage="train", client_id=jobs[0].client_id, round_num=1, error="loss is nan")

    state = ServerState(gate=None, experts=(np.zeros(3, np.float32),))
    with pytest.raises(RuntimeError, match="fine-tuning failed: loss is nan"):
        fine_tuned(Diverges(), 5, state, 1, 1)


@pytest.mark.parametrize(("nodes", "name"), [(1, "fedrep"), (3, "fedrep"), (3, "fedavg_finetuned")])
def test_who_is_tested_depends_on_the_seed_alone(tmp_path: Path, nodes: int, name: str) -> None:
    config = small_config(strategy__name=name, evaluate__seen=5, evaluate__baselines="fedavg")
    one = run_small(tmp_path / "one", nodes=2, settings=config, home=tmp_path / "home")
    other = run_small(tmp_path / "other", nodes=nodes, settings=config, home=tmp_path / "home")
    assert rounds_of(one) == rounds_of(other)
    clients = [
        [row["client_id"] for row in rounds_of(one / part)[-1]["evaluate"]["seen"]["clients"]]
        for part in (".", "baselines/fedavg")
    ]
    assert clients[0] == clients[1]
    assert len(clients[0]) == 5
    titles = {(row.method, row.prediction) for row in compare_runs([one])}
    own = {"fedrep": "FedRep", "fedavg_finetuned": "FedAvg + fine-tuning"}[name]
    assert {(own, "the model (seen clients)"), ("FedAvg", "the model (seen clients)")} <= titles


@pytest.mark.parametrize("seed", range(3))
def test_test_samples_are_dealt_in_the_clients_own_shares(seed: int) -> None:
    settings = small_settings(
        seed=seed, clients__partition="domain", clients__domains="identity,negative", experts__num=2
    )
    data = blobs(None)  # type: ignore[arg-type]
    who = build_population(data, settings)
    test_ids = np.arange(data.num_train, len(data.y_N))
    for client in who.training:
        ids, own = seen_ids(who, client, test_ids, 60, seed), who.shards[client]
        assert len(ids) == len(set(ids)) > 0
        assert set(who.domain_N[ids]) <= set(who.domain_N[own])
        share = np.bincount(data.y_N[own], minlength=6) / len(own)
        got = np.bincount(data.y_N[ids], minlength=6)
        available = np.bincount(data.y_N[test_ids[np.isin(who.domain_N[test_ids], who.domain_N[own])]], minlength=6)
        wanted = np.minimum(available, np.where(share > 0, np.maximum(1, np.round(60 * share)), 0))
        assert (got == wanted).all()
    assert len(seen_clients(who, 5, seed)) == 5
    assert seen_clients(who, 99, seed) == tuple(who.training)
