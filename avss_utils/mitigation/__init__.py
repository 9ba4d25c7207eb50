"""Does training chosen blocks on true answers against false ones help, and is the choice why?"""

from avss_utils.mitigation.adapters import with_adapters
from avss_utils.mitigation.arms import (
    Arm,
    Recipe,
    budget,
    check_arms,
    chosen_arms,
    rank_of,
    standard_arms,
)
from avss_utils.mitigation.losses import (
    CONTRASTS,
    Answers,
    info_nce,
    no_contrast,
    preference,
    triplet,
)
from avss_utils.mitigation.reading import Lesson, collate, lessons, read_answers
from avss_utils.mitigation.training import Trained, train

__all__ = [
    "CONTRASTS",
    "Answers",
    "Arm",
    "Lesson",
    "Recipe",
    "Trained",
    "budget",
    "check_arms",
    "chosen_arms",
    "collate",
    "info_nce",
    "lessons",
    "no_contrast",
    "preference",
    "rank_of",
    "read_answers",
    "standard_arms",
    "train",
    "triplet",
    "with_adapters",
]
