"""The rules that hold between settings, each with the hint that gets a person on."""

from fedmoe.errors import SettingsError
from fedmoe.settings.schema import Settings

__all__ = ["check_rules"]


def check_rules(settings: Settings) -> None:
    """Refuses settings that contradict each other.

    Raises:
        SettingsError: the first rule that is broken, with the values and a hint.
    """
    clients, experts, data = settings.clients, settings.experts, settings.data
    _require(
        experts.top_k <= experts.num,
        f"experts.top-k must be at most experts.num ({experts.num}), got {experts.top_k}: "
        "a client cannot hold more experts than the pool has",
    )
    _require(
        clients.anchors_per_round <= experts.num,
        f"clients.anchors-per-round must be at most experts.num ({experts.num}), got {clients.anchors_per_round}: "
        "there is one anchor client per expert",
    )
    _require(
        clients.anchors_per_round <= clients.per_round,
        f"clients.anchors-per-round must be at most clients.per-round ({clients.per_round}), "
        f"got {clients.anchors_per_round}: anchors are among a round's clients",
    )
    _require(
        clients.per_round <= clients.num,
        f"clients.per-round must be at most clients.num ({clients.num}), got {clients.per_round}",
    )
    normal = clients.num - (experts.num if clients.has_anchors else 0)
    _require(
        normal >= clients.per_round - clients.anchors_per_round and normal >= 1,
        f"clients.num must leave {max(1, clients.per_round - clients.anchors_per_round)} normal clients beside the "
        f"{experts.num} anchors, got {clients.num}; hint: more clients or fewer experts",
    )
    _require(
        data.source in ("", "auto", data.name),
        f"data.source must be '', 'auto' or data.name ('{data.name}'), got '{data.source}'; "
        "hint: set data.name as well",
    )
    _require(
        settings.train.compile != "on" or not settings.deterministic,
        "train.compile='on' needs deterministic=false, got true: the last bits of compiled steps depend on how many "
        "clients are trained together",
    )
    _require(
        not (settings.evaluate.attack_eps and settings.evaluate.common_vote),
        "evaluate.attack-eps attacks what the experts say, and needs evaluate.common-vote=0, got "
        f"{settings.evaluate.common_vote}",
    )
    _require(
        clients.drift_round <= settings.num_server_rounds,
        f"clients.drift-round must be at most num-server-rounds ({settings.num_server_rounds}), got "
        f"{clients.drift_round}: nothing would drift",
    )
    sizes = [part.strip() for part in settings.evaluate.cold_start.split(",") if part.strip()]
    _require(
        all(part.isdecimal() and int(part) >= 1 for part in sizes),
        f"evaluate.cold-start must be numbers of samples, each at least 1, got '{settings.evaluate.cold_start}'; "
        "hint: '1,10,100'",
    )


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise SettingsError(otherwise)
