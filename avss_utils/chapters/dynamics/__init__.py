"""Notebook 05: the scores while a model is trained."""

from avss_utils.chapters.dynamics.experiment import Dynamics, looks, split_seeds, trainings
from avss_utils.chapters.dynamics.stats_callback import StatsCallback
from avss_utils.chapters.dynamics.tasks import budget

__all__ = ["Dynamics", "StatsCallback", "budget", "looks", "split_seeds", "trainings"]
