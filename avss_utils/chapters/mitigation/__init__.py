"""Notebook 03: does training only the flagged blocks help?"""

from avss_utils.chapters.mitigation import choice_calibration, training_effects
from avss_utils.chapters.mitigation.experiment import Mitigation, best_rates, trial_keys

__all__ = ["Mitigation", "best_rates", "choice_calibration", "training_effects", "trial_keys"]
