"""Model x prompts: greedy answers with their probabilities, and whether an answer is right.

All log-probabilities and entropies are in nats, from float32 logits whatever the model's dtype.
"""

from avss_utils.generation.decoding import Generated, greedy_answers
from avss_utils.generation.matching import contains, f1, is_abstention, matches

__all__ = [
    "Generated",
    "contains",
    "f1",
    "greedy_answers",
    "is_abstention",
    "matches",
]
