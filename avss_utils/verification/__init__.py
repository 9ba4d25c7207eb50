"""Is what the committed records say still what the code computes? A small sample, on the CPU.

``CHECKS``: notebook -> table -> a function of a ``Subject`` that yields ``Part``. To add a
notebook, add a row here; a test names the tables that have none.
"""

from avss_utils.verification import (
    answers,
    detected,
    judged,
    mitigation,
    pruning,
    searched,
    studied,
    thresholds,
)
from avss_utils.verification.parts import MissingError, Part
from avss_utils.verification.subject import Bench, Subject
from avss_utils.verification.verifying import DIFFERS, HEAD, as_line, verify_records, verify_run

CHECKS = {
    "01_avss_pruning": pruning.CHECKS | judged.CHECKS,
    "02_hallucination_metrics": studied.CHECKS | detected.CHECKS | answers.CHECKS,
    "03_contrastive_mitigation": mitigation.CHECKS,
    "04_pruning_thresholds": searched.CHECKS | thresholds.CHECKS,
}

__all__ = [
    "CHECKS",
    "DIFFERS",
    "HEAD",
    "Bench",
    "MissingError",
    "Part",
    "Subject",
    "as_line",
    "verify_records",
    "verify_run",
]
