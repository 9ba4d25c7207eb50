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
from avss_utils.dynamics.tasks import Part, TuningTask, collate, judged, tuning_task
from avss_utils.dynamics.training import METHODS, Recipe, fine_tune
from avss_utils.dynamics.weights import weight_movement

__all__ = [
    "COLUMNS",
    "FOLLOWED",
    "METHODS",
    "WHOLE",
    "Part",
    "Recipe",
    "StatsCallback",
    "TuningTask",
    "collate",
    "fine_tune",
    "judged",
    "log_steps",
    "prone_scores",
    "tuning_task",
    "undisturbed",
    "weight_movement",
]
