"""Notebook 03: does training only the flagged blocks help?"""

from avss_utils.chapters.mitigation import choice_calibration, training_effects
from avss_utils.chapters.mitigation.experiment import (
    Mitigation,
    chosen_rates,
    pilot_table,
    rate_keys,
    set_keys,
    trial_keys,
)

__all__ = [
    "Mitigation",
    "choice_calibration",
    "chosen_rates",
    "pilot_table",
    "rate_keys",
    "set_keys",
    "training_effects",
    "trial_keys",
]
