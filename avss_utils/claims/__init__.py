"""Records -> findings on the papers' claims, answers to their questions, the ledger.

Each claim has one primary measurement, declared here before it is run; the others are exploratory.
"""

from collections.abc import Callable

from avss_utils.claims.claim_limits import (
    CLAIMED_ARM,
    DROPPED,
    ERROR_BINS,
    ERROR_FALL,
    GUIDED,
    KEPT,
    LEVEL,
    PRIMARY_TASK,
    RATE_FALL,
    SMALL_EFFECT,
)
from avss_utils.claims.hallucination import (
    answer_findings,
    flag_findings,
    hallucination_findings,
    pattern_findings,
)
from avss_utils.claims.mechanisms import mechanism_findings
from avss_utils.claims.mitigation import (
    choice_findings,
    error_findings,
    few_draws,
    mitigation_findings,
    rate_findings,
    signature,
)
from avss_utils.claims.papers import CLAIMS, Claim
from avss_utils.claims.pruning import null_findings, pruning_findings, retention_findings
from avss_utils.claims.questions import ANSWERS, QUESTIONS, Answer, Question
from avss_utils.claims.records import read_records, recorded_models
from avss_utils.claims.verdicts import Finding, ledger
from avss_utils.store.run_folder import Run

FINDINGS: dict[str, Callable[[Run], list[Finding]]] = {
    "01_avss_pruning": pruning_findings,
    "02_hallucination_metrics": hallucination_findings,
    "03_contrastive_mitigation": mitigation_findings,
    "04_pruning_thresholds": mechanism_findings,
}

__all__ = [
    "ANSWERS",
    "CLAIMED_ARM",
    "CLAIMS",
    "DROPPED",
    "ERROR_BINS",
    "ERROR_FALL",
    "FINDINGS",
    "GUIDED",
    "KEPT",
    "LEVEL",
    "PRIMARY_TASK",
    "QUESTIONS",
    "RATE_FALL",
    "SMALL_EFFECT",
    "Answer",
    "Claim",
    "Question",
    "answer_findings",
    "choice_findings",
    "error_findings",
    "few_draws",
    "flag_findings",
    "hallucination_findings",
    "ledger",
    "mechanism_findings",
    "mitigation_findings",
    "null_findings",
    "pattern_findings",
    "pruning_findings",
    "rate_findings",
    "read_records",
    "recorded_models",
    "retention_findings",
    "signature",
]
