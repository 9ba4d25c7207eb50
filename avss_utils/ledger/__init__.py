"""Runs of every model -> the ledger: what each claim and question ends in, as tables and a figure.

Nothing in a table is a result that was typed: what is declared in ``claims`` stands beside what
``claims`` finds in run folders.
"""

from avss_utils.ledger.figure import figure_height, forest
from avss_utils.ledger.tables import (
    LINK,
    NOT_MEASURED,
    Judged,
    answers_table,
    beside_papers,
    by_model,
    distances,
    glued,
    judge_records,
    turns,
)

__all__ = [
    "LINK",
    "NOT_MEASURED",
    "Judged",
    "answers_table",
    "beside_papers",
    "by_model",
    "distances",
    "figure_height",
    "forest",
    "glued",
    "judge_records",
    "turns",
]
