"""Model x data -> tidy numbers: activations, likelihood, answers, sensitivity."""

from avss_utils.measure.activations import collect_block_stats
from avss_utils.measure.block_stats import BlockStats
from avss_utils.measure.choices import score_choices
from avss_utils.measure.decoding import greedy_answers, sampled_answers
from avss_utils.measure.drop_losses import drop_losses, leave_one_out
from avss_utils.measure.texts import perplexity, window_likelihoods

__all__ = [
    "BlockStats",
    "collect_block_stats",
    "drop_losses",
    "greedy_answers",
    "leave_one_out",
    "perplexity",
    "sampled_answers",
    "score_choices",
    "window_likelihoods",
]
