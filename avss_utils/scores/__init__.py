"""Statistics -> one score a block -> which blocks go; EAVSS and its parts."""

from avss_utils.models.plan import PruningPlan, as_drop, as_text, n_to_drop
from avss_utils.scores.contrasts import eavss, hsav, hss
from avss_utils.scores.criteria import CRITERIA, criterion, load_outside_criteria, score_blocks
from avss_utils.scores.plans import (
    plan_contiguous,
    plan_iterative,
    plan_lowest,
    plan_random,
    plan_tail,
)

__all__ = [
    "CRITERIA",
    "PruningPlan",
    "as_drop",
    "as_text",
    "criterion",
    "eavss",
    "hsav",
    "hss",
    "n_to_drop",
    "plan_contiguous",
    "plan_iterative",
    "plan_lowest",
    "plan_random",
    "plan_tail",
    "score_blocks",
]


load_outside_criteria()
