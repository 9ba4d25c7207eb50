"""Records -> conditions of the papers' claims, answers to their questions, the ledger.

A claim is a conjunction of conditions, declared here before the records that they judge; other
measurements are exploratory.
"""

from collections.abc import Callable

from avss_utils.chapters.mitigation.arms import GUIDED
from avss_utils.claims.hallucination import (
    answer_findings,
    flag_findings,
    hallucination_findings,
    pattern_findings,
)
from avss_utils.claims.mechanisms import mechanism_findings, shape_findings
from avss_utils.claims.mitigation import few_draws, mitigation_findings, signature
from avss_utils.claims.papers import (
    CLAIMED_ARM,
    CLAIMS,
    ERROR_BINS,
    ERROR_FALL,
    KEPT,
    SMALL_EFFECT,
)
from avss_utils.claims.pruning import null_findings, pruning_findings
from avss_utils.claims.verdicts import (
    Finding,
    effect,
    shown,
    turned,
    verdicts_of,
    words_of,
)
from avss_utils.store.run_folder import Run

FINDINGS: dict[str, Callable[[Run], list[Finding]]] = {
    "01_avss_pruning": pruning_findings,
    "02_hallucination_metrics": hallucination_findings,
    "03_contrastive_mitigation": mitigation_findings,
    "04_pruning_thresholds": mechanism_findings,
    "06_architecture": shape_findings,
}

__all__ = [
    "CLAIMED_ARM",
    "CLAIMS",
    "ERROR_BINS",
    "ERROR_FALL",
    "FINDINGS",
    "GUIDED",
    "KEPT",
    "SMALL_EFFECT",
    "answer_findings",
    "effect",
    "few_draws",
    "flag_findings",
    "mechanism_findings",
    "mitigation_findings",
    "null_findings",
    "pattern_findings",
    "pruning_findings",
    "shown",
    "signature",
    "turned",
    "verdicts_of",
    "words_of",
]
