"""Everything that a run can be told: the schema, the rules between settings, and the door that checks both."""

from fedmoe.settings.loading import from_flat, to_flat
from fedmoe.settings.schema import (
    ClientsSettings,
    CommonExpertSettings,
    DataSettings,
    EvaluateSettings,
    ExpertsSettings,
    GateSettings,
    Settings,
    StrategySettings,
    TrainSettings,
)

__all__ = [
    "ClientsSettings",
    "CommonExpertSettings",
    "DataSettings",
    "EvaluateSettings",
    "ExpertsSettings",
    "GateSettings",
    "Settings",
    "StrategySettings",
    "TrainSettings",
    "from_flat",
    "to_flat",
]
