"""How good are the rules by which a model's own answer is right? Two readings beside them."""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from avss_utils.measure.own_answers import RIGHT
from avss_utils.stats.resampling import proportion
from avss_utils.store.files import project_root

SHEET = Path("results") / "labels" / "own_answers.csv"  # made by benchmarks/labelling.py
FIRST, SECOND = "first", "second"


def labelled() -> pd.DataFrame:
    """The committed sheet: model, set, row_id, answer, match, contains, first, second.

    Labels are a large language model's, of two separate readings: right, wrong or none; match is
    right, wrong or abstained, contains a bool. Empty where the project around a notebook has no
    sheet.
    """
    path = project_root() / SHEET
    if not path.exists():
        return pd.DataFrame(columns=["model", "set", "match", "contains", FIRST, SECOND])
    return pd.read_csv(path, keep_default_na=False)


def kappa(sheet: pd.DataFrame) -> float:
    """Cohen's kappa of both readings, -1 to 1: agreement beyond what chance would give."""
    from sklearn.metrics import cohen_kappa_score  # a second to import

    return float(cohen_kappa_score(sheet[FIRST], sheet[SECOND]))


def rule_errors(sheet: pd.DataFrame) -> pd.DataFrame:
    """What each rule gets wrong of the answers that both readings label alike.

    Columns: rule, of, value, low, high, n.
    ``of``: "right answers called wrong" and "wrong answers called right", shares with exact 95 %
    intervals; answers labelled none count as wrong.
    """
    agreed = sheet[sheet[FIRST] == sheet[SECOND]]
    rows = []
    for rule, of, wrong in _errors(agreed):
        if wrong.empty:
            continue
        e = proportion(int(wrong.sum()), len(wrong))
        rows.append((rule, of, e.value, e.low, e.high, e.n))
    return pd.DataFrame(rows, columns=["rule", "of", "value", "low", "high", "n"])


def _errors(agreed: pd.DataFrame) -> Iterator[tuple[str, str, pd.Series]]:
    right = agreed[FIRST] == RIGHT
    rules = {"match": agreed.match == RIGHT, "contains": agreed.contains.astype(bool)}
    for rule, says_right in rules.items():
        yield rule, "right answers called wrong", ~says_right[right]
        yield rule, "wrong answers called right", says_right[~right]
