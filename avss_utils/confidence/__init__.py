"""Does confidence mean what it says? Calibration errors, their noise, and how to mend them.

A confidence is the probability, in [0, 1], that the answer given is right. Rows are questions, each
with one answer.
"""

from avss_utils.confidence.choices import choice_confidence, temperature
from avss_utils.confidence.errors import (
    brier_score,
    calibration_floor,
    debiased_calibration_error,
    expected_calibration_error,
    reliability_bins,
)
from avss_utils.confidence.intervals import calibration_estimate, paired_calibration_change

__all__ = [
    "brier_score",
    "calibration_estimate",
    "calibration_floor",
    "choice_confidence",
    "debiased_calibration_error",
    "expected_calibration_error",
    "paired_calibration_change",
    "reliability_bins",
    "temperature",
]
