"""Notebook 01: what is left after pruning, and whether random sets do as well."""

from avss_utils.chapters.pruning.costs import budget
from avss_utils.chapters.pruning.experiment import Pruning, to_answer
from avss_utils.chapters.pruning.null_sets import null_sets

__all__ = ["Pruning", "budget", "null_sets", "to_answer"]
