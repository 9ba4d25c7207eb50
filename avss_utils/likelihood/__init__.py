"""Model x texts: token log-likelihoods, perplexity, and scores of answer choices.

All log-likelihoods are natural logarithms, taken from float32 logits whatever the model's dtype.
"""

from avss_utils.data.token_rows import ChoiceUnit, choice_units, pad
from avss_utils.likelihood.choices import PromptPass, alike, group_batches, grouped, score_choices
from avss_utils.likelihood.passes import (
    few_rows,
    forward_logits,
    last_only,
    left_padded,
    log_probabilities,
    longest_first,
    within_logits,
)
from avss_utils.likelihood.texts import perplexity, window_likelihoods

__all__ = [
    "ChoiceUnit",
    "PromptPass",
    "alike",
    "choice_units",
    "few_rows",
    "forward_logits",
    "group_batches",
    "grouped",
    "last_only",
    "left_padded",
    "log_probabilities",
    "longest_first",
    "pad",
    "perplexity",
    "score_choices",
    "window_likelihoods",
    "within_logits",
]
