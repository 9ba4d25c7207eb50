"""Tables of a run -> findings on the claims C1-C11 of the papers, one function a notebook.

Each claim has one primary measurement, declared here before it is run; the others are exploratory.
"""

from collections.abc import Callable

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
    mitigation_findings,
    rate_findings,
    signature,
)
from avss_utils.claims.pruning import null_findings, pruning_findings, retention_findings
from avss_utils.claims.thresholds import (
    CLAIMED_ARM,
    ERROR_BINS,
    ERROR_FALL,
    GUIDED,
    KEPT,
    LEVEL,
    PRIMARY_TASK,
    RATE_FALL,
    SENTIMENT,
    SMALL_EFFECT,
)
from avss_utils.runs import Run
from avss_utils.verdicts import Finding

CLAIMS = {
    "C1": "Pruning the lowest 25 % of layers by AVSS keeps over 90 % of question answering.",
    "C2": "The same for language modelling.",
    "C3": "The same for sentiment classification.",
    "C4": "AVSS chooses layers better than chance.",
    "C5": "A high-variance layer is an important layer.",
    "C6": "A high-sparsity layer is a redundant layer.",
    "C7": "Hallucination has its own pattern of variance and sparsity.",
    "C8": "HSAV and HSS identify hallucination-prone layers precisely.",
    "C9": "Contrastive learning on those layers lowers the hallucination rate by up to 12 %.",
    "C10": "ECE falls by 34 % on NQ, SciQ and WikiQA.",
    "C11": "Choosing the layers by EAVSS is what helps.",
}

FINDINGS: dict[str, Callable[[Run], list[Finding]]] = {
    "01_avss_pruning": pruning_findings,
    "02_hallucination_metrics": hallucination_findings,
    "03_contrastive_mitigation": mitigation_findings,
    "04_pruning_thresholds": mechanism_findings,
}

__all__ = [
    "CLAIMED_ARM",
    "CLAIMS",
    "ERROR_BINS",
    "ERROR_FALL",
    "FINDINGS",
    "GUIDED",
    "KEPT",
    "LEVEL",
    "PRIMARY_TASK",
    "RATE_FALL",
    "SENTIMENT",
    "SMALL_EFFECT",
    "answer_findings",
    "choice_findings",
    "error_findings",
    "flag_findings",
    "hallucination_findings",
    "mechanism_findings",
    "mitigation_findings",
    "null_findings",
    "pattern_findings",
    "pruning_findings",
    "rate_findings",
    "retention_findings",
    "signature",
]
