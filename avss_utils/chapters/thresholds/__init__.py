"""Notebook 04: rivals of AVSS, what foresees the loss, and how many blocks can go."""

from avss_utils.chapters.thresholds.calibration_dependence import (
    agreement,
    separate_draws,
    set_plans,
)
from avss_utils.chapters.thresholds.experiment import SCALES, Thresholds
from avss_utils.chapters.thresholds.healing import (
    AS_IT_WAS,
    healed_bits,
    healed_outcomes,
    healing_arms,
    recovery,
    with_unpruned,
)
from avss_utils.chapters.thresholds.keep_curves import guide, keep_curve, shares_kept
from avss_utils.chapters.thresholds.loss_correlations import correlations, pair_gap, rises
from avss_utils.chapters.thresholds.paper_figure import (
    figure_facts,
    figure_fits,
    figure_one,
    scale_law,
)
from avss_utils.chapters.thresholds.rivals import rival_table

__all__ = [
    "AS_IT_WAS",
    "SCALES",
    "Thresholds",
    "agreement",
    "correlations",
    "figure_facts",
    "figure_fits",
    "figure_one",
    "guide",
    "healed_bits",
    "healed_outcomes",
    "healing_arms",
    "keep_curve",
    "pair_gap",
    "recovery",
    "rises",
    "rival_table",
    "scale_law",
    "separate_draws",
    "set_plans",
    "shares_kept",
    "with_unpruned",
]
