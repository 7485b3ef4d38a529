"""Laws of the door: whatever has the right name, type and range comes in; everything else is told why not."""

import dataclasses
import math

import pytest

from fedmoe.errors import SettingsError
from fedmoe.settings import Settings, from_flat, to_flat
from fedmoe.settings.loading import check_value, leaves
from fedmoe.settings.rules import check_rules

FIELDS = dict(leaves())
NUMBERS = {key: item for key, item in FIELDS.items() if type(item.default) in (int, float)}
FLOATS = [key for key, item in FIELDS.items() if isinstance(item.default, float)]
PROMISED = """
    seed num-server-rounds deterministic output-dir checkpoint-every data.name data.root data.source clients.num
    clients.per-round clients.anchors-per-round clients.partition clients.labels-per-client clients.alpha
    clients.unseen common-expert.source common-expert.epochs common-expert.accuracy gate.name gate.hidden
    experts.num experts.top-k experts.model experts.init train.epochs train.batch-size train.learning-rate
    train.momentum train.gate-learning-rate train.logit-adjustment strategy.name evaluate.every evaluate.ema
"""
WRONG_TYPE = {
    bool: (1, 0, 1.0, "true", None),
    int: (True, 1.0, "1", None, [1]),
    float: (True, "0.5", None, [0.5]),
    str: (1, 1.5, True, None, ["mlp"]),
}
RIGHT = {bool: (True, False), int: (3, 10**6), float: (0.25, 1e-3, 1), str: ("", "a:B", "with 'quotes'")}


def bounds(key):
    return {
        name: value for name in ("low", "high", "above", "below") if (value := FIELDS[key].metadata[name]) is not None
    }


def within(key, value):
    told = bounds(key)
    return (
        told.get("low", -math.inf) <= value <= told.get("high", math.inf)
        and told.get("above", -math.inf) < value < told.get("below", math.inf)
    )  # fmt: skip


def read(settings, key):
    for part in key.split("."):
        settings = getattr(settings, part.replace("-", "_"))
    return settings


@pytest.mark.parametrize("key", FIELDS)
def test_a_value_of_the_right_type_is_taken(key):
    item = FIELDS[key]
    for value in item.metadata["choices"] or RIGHT[type(item.default)]:
        if isinstance(value, (bool, str)) or within(key, value):
            check_value(key, item, value)


@pytest.mark.parametrize("key", FIELDS)
def test_a_value_of_a_wrong_type_is_refused_by_name(key):
    wanted = type(FIELDS[key].default)
    for value in WRONG_TYPE[wanted]:
        with pytest.raises(SettingsError) as refusal:
            from_flat({key: value})
        assert str(refusal.value) == f"{key} must be of type {wanted.__name__}, got {value!r} ({type(value).__name__})"


@pytest.mark.parametrize("key", NUMBERS)
def test_a_bound_itself_belongs_to_the_range_or_not_as_it_says_and_the_next_number_beyond_never(key):
    item, told = FIELDS[key], bounds(key)
    assert told, "a number without any bound is a range that nobody thought about"
    whole = isinstance(item.default, int)

    def up(x):
        return x + 1 if whole else math.nextafter(x, math.inf)

    def down(x):
        return x - 1 if whole else math.nextafter(x, -math.inf)

    inside = [told[name] for name in ("low", "high") if name in told]
    inside += [up(told["above"])] if "above" in told else []
    inside += [down(told["below"])] if "below" in told else []
    outside = [told[name] for name in ("above", "below") if name in told]
    outside += [down(told["low"])] if "low" in told else []
    outside += [up(told["high"])] if "high" in told else []
    for value in inside:
        check_value(key, item, type(item.default)(value))
    for value in outside:
        with pytest.raises(SettingsError, match=rf"^{key} must be (at least|at most|greater than|below) .*, got -?\d"):
            from_flat({key: type(item.default)(value)})


@pytest.mark.parametrize("key", NUMBERS)
def test_no_number_is_negative(key):
    with pytest.raises(SettingsError, match=f"^{key} must be .*, got -1"):
        from_flat({key: type(FIELDS[key].default)(-1)})


@pytest.mark.parametrize("key", FLOATS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_finite_number_is_refused(key, value):
    with pytest.raises(SettingsError, match=f"^{key} must be a finite number, got {value}$"):
        from_flat({key: value})


@pytest.mark.parametrize("key", [key for key, item in FIELDS.items() if item.metadata["choices"]])
def test_a_word_that_is_no_choice_is_refused_with_all_choices(key):
    choices = FIELDS[key].metadata["choices"]
    with pytest.raises(SettingsError) as refusal:
        from_flat({key: choices[0] + "x"})
    assert f"did you mean '{choices[0]}'?" in str(refusal.value)
    assert all(choice in str(refusal.value) for choice in choices)


@pytest.mark.parametrize("key", FIELDS)
def test_a_key_with_a_slip_is_refused_with_the_right_one(key):
    for slip in {key[:-1], key + "x", key[:1] + key[2:]} - FIELDS.keys():
        with pytest.raises(SettingsError) as refusal:
            from_flat({slip: FIELDS[key].default})
        assert str(refusal.value).startswith(f"unknown setting '{slip}'; ")
        hinted = str(refusal.value).partition("did you mean '")[2].removesuffix("'?")
        # Another setting may happen to be as near: `clients.num` and `experts.num` share their last part.
        assert hinted == key or hinted.split(".")[-1] == slip.split(".")[-1], refusal.value


@pytest.mark.parametrize("key", [key for key in FIELDS if "." in key])
def test_a_key_without_its_table_or_in_a_wrong_one_leads_to_a_setting_of_that_name(key):
    name = key.partition(".")[2]
    for wrong in {name, f"nowhere.{name}"} - FIELDS.keys():
        with pytest.raises(SettingsError) as refusal:
            from_flat({wrong: FIELDS[key].default})
        hinted = str(refusal.value).partition("did you mean '")[2].removesuffix("'?")
        assert hinted in FIELDS
        assert hinted.split(".")[-1] == name


@pytest.mark.parametrize("key", ["qqqqqqqq", "", ".", "a.b.c.d", "train", "data.", "strategy.a.b.c"])
def test_a_key_like_no_other_is_refused_too(key):
    with pytest.raises(SettingsError, match=f"^unknown setting '{key}'; (tables: .*train|did you mean)"):
        from_flat({key: 1})


def test_names_may_be_written_with_underscores():
    flat = {
        "num_server_rounds": 3,
        "clients.per_round": 7,
        "common_expert.batch_size": 5,
        "strategy.my-own.some-name": 1,
    }
    dashed = {key.replace("_", "-"): value for key, value in flat.items()}
    assert from_flat(flat) == from_flat(dashed)
    assert from_flat(flat).strategy.arguments == {"my_own": {"some_name": 1}}


@pytest.mark.parametrize("kind", ["gate", "experts", "strategy"])
def test_arguments_of_plug_ins_stand_in_tables_of_their_own(kind):
    flat = {f"{kind}.top-k.some-name": 2, f"{kind}.top-k.other": "x", f"{kind}.next.flag": True}
    settings = from_flat(flat)
    assert getattr(settings, kind).arguments == {"top_k": {"some_name": 2, "other": "x"}, "next": {"flag": True}}
    assert {key: value for key, value in to_flat(settings).items() if key.count(".") == 2} == {
        key.replace("top-k", "top_k"): value for key, value in flat.items()
    }
    assert from_flat(to_flat(settings)) == settings


def another(key):
    """Returns a value of this setting that is allowed and not its default."""
    default, choices = FIELDS[key].default, FIELDS[key].metadata["choices"]
    if isinstance(default, bool):
        return not default
    if isinstance(default, str):
        free = {"data.source": "x", "evaluate.cold-start": "1,10"}
        return free[key] if key in free else choices[-1] if choices else f"{default}x"
    nearby = [default + 1, default - 1] if isinstance(default, int) else [default / 2 + 0.2, default / 2]
    return next(value for value in nearby if value != default and within(key, value))


@pytest.mark.parametrize("key", FIELDS)
def test_every_setting_reaches_its_own_field_and_comes_back(key):
    value = another(key)
    roomy = {"experts.num": 9, "data.name": "x"} | {key: value}
    settings = from_flat(roomy)
    assert read(settings, key) == value
    assert to_flat(settings) == to_flat(Settings()) | roomy
    assert from_flat(to_flat(settings)) == settings


def test_the_arguments_of_strategies_come_back():
    flat = {"strategy.fedprox.mu": 0.5, "strategy.mine.a-word": "x", "strategy.mine.on": True, "strategy.mine.n": 3}
    settings = from_flat(flat)
    assert to_flat(settings) == to_flat(Settings()) | flat
    assert from_flat(to_flat(settings)) == settings


def test_a_whole_number_serves_as_a_real_one():
    settings = from_flat({"clients.alpha": 1})
    assert settings.clients.alpha == 1.0
    assert isinstance(settings.clients.alpha, float)


def test_settings_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().train.epochs = 2


def test_the_defaults_are_in_range_and_keep_the_rules():
    for key, item in FIELDS.items():
        check_value(key, item, item.default)
    check_rules(Settings())


def test_every_setting_has_a_line_of_help():
    assert [key for key, item in FIELDS.items() if not item.metadata["help"].strip()] == []


def test_the_names_that_people_write_in_presets_and_on_command_lines_stay():
    assert [name for name in PROMISED.split() if name not in FIELDS] == []
