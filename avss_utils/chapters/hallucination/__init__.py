"""Notebook 02: which blocks hold false answers otherwise than true ones."""

from avss_utils.chapters.hallucination import (
    bypassing,
    detectors,
    inputs,
    intervention,
    labels,
    pruned,
    said,
    said_errors,
    summaries,
)
from avss_utils.chapters.hallucination.experiment import Hallucination

__all__ = [
    "Hallucination",
    "bypassing",
    "detectors",
    "inputs",
    "intervention",
    "labels",
    "pruned",
    "said",
    "said_errors",
    "summaries",
]
