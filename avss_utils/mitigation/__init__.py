"""Does training chosen blocks on true answers against false ones help, and is the choice why?"""

from avss_utils.mitigation.arms import Arm, budget, rank_of, standard_arms
from avss_utils.mitigation.losses import (
    CONTRASTS,
    Answers,
    info_nce,
    no_contrast,
    preference,
    triplet,
)
from avss_utils.mitigation.reading import Lesson, collate, lessons, read_answers
from avss_utils.mitigation.training import Recipe, Trained, train, with_adapters

__all__ = [
    "CONTRASTS",
    "Answers",
    "Arm",
    "Lesson",
    "Recipe",
    "Trained",
    "budget",
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
