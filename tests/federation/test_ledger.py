from dataclasses import replace

import pytest

from fedmoe.federation.job import PARTS, ClientJob, Term
from fedmoe.federation.ledger import Ledger, fedjets_bytes

BYTES = 4


def job(client_id: int, experts: tuple[int, ...], gate: bool = True) -> ClientJob:
    return ClientJob(client_id=client_id, round_num=1, experts=experts, objective=(Term("dense"),), gate=gate)


def closed_formula(p_r: int, p_e: int, n_c: int, n_a: int, k: int) -> int:
    """One round of FedJETs, both ways; eps is one index of four bytes."""
    return 2 * BYTES * (n_c + n_a) * p_r + 2 * BYTES * (n_c * k + n_a) * p_e + BYTES * n_c * k


@pytest.mark.parametrize("p_r", [0, 17])
@pytest.mark.parametrize("p_e", [1, 1000])
@pytest.mark.parametrize(("pool", "k"), [(1, 1), (5, 2), (10, 3)])
@pytest.mark.parametrize(("n_c", "n_a"), [(5, 5), (0, 3), (7, 0)])
def test_a_fedjets_round_costs_what_the_closed_formula_says(
    p_r: int, p_e: int, pool: int, k: int, n_c: int, n_a: int
) -> None:
    ledger = Ledger(gate_size=p_r, expert_size=p_e, num_experts=pool, common_size=9)
    anchors = [job(a, (a % pool,)) for a in range(n_a)]
    normal = [job(100 + c, tuple((c + i) % pool for i in range(k))) for c in range(n_c)]
    sent = ledger.round([*anchors, *normal], asked := [one.client_id for one in normal], asked, k)
    expected = closed_formula(p_r, p_e, n_c, n_a, k)
    assert sent.down + sent.up == expected
    assert fedjets_bytes(ledger, normal=n_c, anchors=n_a, top_k=k) == expected
    assert sent.up - sent.down == BYTES * n_c * k
    assert sum(sent.by_expert) == 2 * BYTES * p_e * (n_c * k + n_a)


def test_more_experts_in_the_pool_cost_nothing() -> None:
    jobs = [job(0, (0, 1)), job(1, (1, 2))]
    sizes = {"gate_size": 3, "expert_size": 50, "common_size": 0}
    small, large = (Ledger(num_experts=pool, **sizes).round(jobs, [0, 1], [0, 1], 2) for pool in (3, 30))
    assert (small.down, small.up) == (large.down, large.up)
    assert large.by_expert == (*small.by_expert, *[0] * 27)


@pytest.mark.parametrize("ranks_by", ["loss", "likelihood"])
def test_ranking_by_loss_sends_the_whole_pool_down_once(ranks_by: str) -> None:
    ledger = Ledger(gate_size=0, expert_size=11, num_experts=4, common_size=0)
    jobs = [job(client, (1,), gate=False) for client in (3, 4, 5)]
    sent = ledger.round(jobs, [3, 4], [3, 4], 1, ranks_by)
    assert sent.down == (2 * 4 + 1) * 11 * BYTES, "those who have been asked have got what they train"
    assert sent.up == 3 * 11 * BYTES + 2 * BYTES
    assert sum(sent.by_expert) == (2 * 4 + 1 + 3) * 11 * BYTES


def test_a_job_without_a_gate_does_not_pay_for_it() -> None:
    ledger = Ledger(gate_size=1000, expert_size=7, num_experts=2, common_size=0)
    sent = ledger.round([job(0, (1,), gate=False)], [], [], 2)
    assert (sent.down, sent.up, sent.by_expert) == (28, 28, (0, 56))


def test_what_is_private_costs_nothing_and_what_is_shared_costs_both_ways() -> None:
    ledger = Ledger(gate_size=5, expert_size=7, num_experts=2, common_size=0)
    ours = job(0, (1,), gate=False)
    private = replace(ours, private=PARTS, sends=False)
    alone = ledger.round([private], [], [], 2)
    assert (alone.down, alone.up, alone.by_expert) == (0, 0, (0, 0))
    both, plain = ledger.round([ours, private], [], [], 2), ledger.round([ours], [], [], 2)
    assert both == plain, "Ditto's bytes are FedAvg's"
    shared = replace(ours, shared=("control",))
    assert ledger.round([shared, replace(shared, private=PARTS, sends=False)], [], [], 2) == ledger.round(
        [shared], [], [], 2
    )
    gate_alone = replace(job(0, (1,)), private=("body", "head"), sends=False)
    assert ledger.round([gate_alone], [], [], 2).down == 5 * BYTES
    heads = ledger.round([replace(ours, private=("head",), sends=False), ours], [], [], 2)
    assert heads == plain, "a second job needs nothing that the first one has not got"
    control = ledger.round([replace(ours, shared=("control",))], [], [], 2)
    assert (control.down, control.up, control.by_expert) == (56, 56, (0, 112)), "SCAFFOLD's bytes are twice FedAvg's"
    gated = ledger.round([replace(job(0, (0, 1)), shared=("control",))], [], [], 2)
    assert gated.down == gated.up == 2 * (2 * 7 + 5) * BYTES


def test_every_client_gets_the_common_expert_once() -> None:
    assert Ledger(gate_size=1, expert_size=1, num_experts=1, common_size=25).once(100) == 100 * 25 * BYTES


def test_a_client_that_failed_to_rank_got_the_gate_and_nothing_else() -> None:
    ledger = Ledger(gate_size=7, expert_size=100, num_experts=3, common_size=0)
    whole = ledger.round([job(3, (0, 1), gate=True)], [3], [3], 2)
    with_a_failure = ledger.round([job(3, (0, 1), gate=True)], [3, 4], [3], 2)
    assert with_a_failure.down - whole.down == 7 * 4
    assert with_a_failure.up == whole.up
