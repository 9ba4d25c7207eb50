"""How do the scores of blocks move while a model is fine-tuned, and does that tell anything?"""

from avss_utils.dynamics.looking import undisturbed
from avss_utils.dynamics.measures import prone_scores, weight_movement
from avss_utils.dynamics.rows import COLUMNS, FOLLOWED, WHOLE, log_steps
from avss_utils.dynamics.tasks import Part, TuningTask, judged, tuning_task
from avss_utils.dynamics.training import METHODS, Recipe, fine_tune

__all__ = [
    "COLUMNS",
    "FOLLOWED",
    "METHODS",
    "WHOLE",
    "Part",
    "Recipe",
    "StatsCallback",
    "TuningTask",
    "fine_tune",
    "judged",
    "log_steps",
    "prone_scores",
    "tuning_task",
    "undisturbed",
    "weight_movement",
]


def __getattr__(name: str):
    """StatsCallback when it is asked for: a record is read without transformers' Trainer."""
    if name == "StatsCallback":
        from avss_utils.dynamics.callback import StatsCallback

        return StatsCallback
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
