"""Numbers with intervals: resampling, retention, calibration, detection. Knows no model.

A confidence is the probability, in [0, 1], that the answer given is right.
"""

from avss_utils.stats.block_profiles import rank_correlation
from avss_utils.stats.calibration import (
    calibration_floor,
    choice_confidence,
    debiased_calibration_error,
    expected_calibration_error,
    reliability_bins,
    temperature,
)
from avss_utils.stats.resampling import Estimate, against_null, detectable

__all__ = [
    "Estimate",
    "against_null",
    "calibration_floor",
    "choice_confidence",
    "debiased_calibration_error",
    "detectable",
    "expected_calibration_error",
    "rank_correlation",
    "reliability_bins",
    "temperature",
]
