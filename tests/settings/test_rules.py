"""Laws of the rules between settings: each holds up to its edge, and says rule, value and hint beyond it."""

import inspect
import re

import pytest

from fedmoe.errors import SettingsError
from fedmoe.settings import from_flat, rules

# what stands around it, the setting, the last value that is allowed, the first that is not, what the refusal says
EDGES = {
    "top-k": (
        {"experts.num": 4, "clients.anchors-per-round": 2},
        "experts.top-k",
        (4, 5),
        r"experts.top-k must be at most experts.num \(4\), got 5: a client cannot hold more experts than the pool has",
    ),
    "one anchor an expert": (
        {"experts.num": 4, "clients.per-round": 10},
        "clients.anchors-per-round",
        (4, 5),
        r"clients.anchors-per-round must be at most experts.num \(4\), got 5: there is one anchor client per expert",
    ),
    "anchors are among a round's clients": (
        {"experts.num": 9, "clients.per-round": 6},
        "clients.anchors-per-round",
        (6, 7),
        r"clients.anchors-per-round must be at most clients.per-round \(6\), got 7: anchors are among .* clients",
    ),
    "a round's clients are clients": (
        {"clients.num": 30, "clients.anchors-per-round": 0},
        "clients.per-round",
        (30, 31),
        r"clients.per-round must be at most clients.num \(30\), got 31",
    ),
    "enough normal clients beside idle anchors": (
        {"experts.num": 8, "clients.per-round": 10, "clients.anchors-per-round": 2},
        "clients.num",
        (16, 15),
        r"clients.num must leave 8 normal clients beside the 8 anchors, got 15; hint: more clients or fewer experts",
    ),
    "one normal client at least": (
        {"experts.num": 5, "clients.per-round": 5, "clients.anchors-per-round": 5},
        "clients.num",
        (6, 5),
        r"clients.num must leave 1 normal clients beside the 5 anchors, got 5; hint: more clients or fewer experts",
    ),
    "no anchors without anchors": (
        {"experts.num": 5, "clients.per-round": 5, "clients.anchors-per-round": 0},
        "clients.num",
        (5, 4),
        r"clients.per-round must be at most clients.num \(4\), got 5",
    ),
    "the source is this data": (
        {"data.name": "cifar100"},
        "data.source",
        ("cifar100", "cifar10"),
        r"data.source must be '', 'auto' or data.name \('cifar100'\), got 'cifar10'; hint: set data.name as well",
    ),
    "compiling costs determinism": (
        {"train.compile": "on"},
        "deterministic",
        (False, True),
        r"train.compile='on' needs deterministic=false, got true: the last bits .* are trained together",
    ),
    "a drift that comes": (
        {"num-server-rounds": 4},
        "clients.drift-round",
        (4, 5),
        r"clients.drift-round must be at most num-server-rounds \(4\), got 5: nothing would drift",
    ),
    "an attack on a vote": (
        {"evaluate.attack-eps": 0.1},
        "evaluate.common-vote",
        (0.0, 0.2),
        r"evaluate.attack-eps attacks what the experts say, and needs evaluate.common-vote=0, got 0.2",
    ),
    "a cold start has a sample": (
        {},
        "evaluate.cold-start",
        ("1, 10", "10,0"),
        r"evaluate.cold-start must be numbers of samples, each at least 1, got '10,0'; hint: '1,10,100'",
    ),
}


@pytest.mark.parametrize("name", EDGES)
def test_a_rule_holds_up_to_its_edge(name):
    around, key, (allowed, _), _ = EDGES[name]
    assert from_flat(around | {key: allowed})


@pytest.mark.parametrize("name", EDGES)
def test_beyond_the_edge_the_rule_is_told_with_value_and_hint_in_one_line(name):
    around, key, (_, refused), message = EDGES[name]
    with pytest.raises(SettingsError) as refusal:
        from_flat(around | {key: refused})
    assert re.fullmatch(message, str(refusal.value)), refusal.value
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("source", ["", "auto"])
def test_a_source_that_names_no_data_fits_any(source):
    assert from_flat({"data.name": "cifar100", "data.source": source}).data.source == source


def test_every_rule_stands_in_the_table_above():
    rules_told = inspect.getsource(rules.check_rules).count("_require(")
    broken = set()
    for around, key, (_, refused), _ in EDGES.values():
        with pytest.raises(SettingsError) as refusal:
            from_flat(around | {key: refused})
        broken.add(refusal.traceback[-2].lineno)
    assert len(broken) == rules_told
