"""Notebook 02: which blocks hold false answers otherwise than true ones."""

from avss_utils.chapters.hallucination.detectors import AT_RANDOM, FLAGGED, PROBE
from avss_utils.chapters.hallucination.experiment import Hallucination
from avss_utils.chapters.hallucination.inputs import to_ask
from avss_utils.chapters.hallucination.intervention import causal_contrasts
from avss_utils.chapters.hallucination.pruned import N_BINS, mean_table, plan_table
from avss_utils.chapters.hallucination.summaries import (
    count_intervals,
    detection_tables,
    flagged_contrasts,
    own_rates,
    paired_hsav,
    primary_contrasts,
    probe_agreements,
    shown_plans,
    strongest_blocks,
    variant_table,
    width_of,
)

__all__ = [
    "AT_RANDOM",
    "FLAGGED",
    "N_BINS",
    "PROBE",
    "Hallucination",
    "causal_contrasts",
    "count_intervals",
    "detection_tables",
    "flagged_contrasts",
    "mean_table",
    "own_rates",
    "paired_hsav",
    "plan_table",
    "primary_contrasts",
    "probe_agreements",
    "shown_plans",
    "strongest_blocks",
    "to_ask",
    "variant_table",
    "width_of",
]
