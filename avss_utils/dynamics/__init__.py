"""How do the scores of blocks move while a model is fine-tuned, and does that tell anything?"""

from avss_utils.dynamics.callback import (
    COLUMNS,
    FOLLOWED,
    WHOLE,
    StatsCallback,
    log_steps,
    prone_scores,
)
from avss_utils.dynamics.looking import undisturbed

__all__ = [
    "COLUMNS",
    "FOLLOWED",
    "WHOLE",
    "StatsCallback",
    "log_steps",
    "prone_scores",
    "undisturbed",
]
