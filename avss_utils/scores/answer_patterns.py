"""How every answer is held by every block, and how far false answers lie from true ones.

Two measures of an answer, known by the scores that they stand behind: HSAV, the log of its
variance; HSS, the log odds of its sparsity, (zeros + 1/2) / (entries + 1).
"""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from avss_utils.data.answer_sets import KINDS
from avss_utils.scores.answer_study import PRIMARY, SetStudy
from avss_utils.scores.contrasts import each_answer, log_odds, log_variance

TRUE, FALSE = "true", "false"
MEASURED = ["set", "kind", "score"]


def pattern_rows(study: SetStudy) -> pd.DataFrame:
    """Both measures of every evaluation answer by block, by the primary analysis.

    One row per question, kind of pair, answer ("true" or "false", cut to equal length) and score:
    set, row_id, kind, answer, score, and b0, b1, ... in float16, to within 2^-11 of the value. 600
    questions take 14,400 bytes a block: six sets 2.6 MB where there are 30 blocks.
    """
    parts = []
    for kind in KINDS:
        sums, pairs = study.sums(study.tokens, study.evaluation, kind, *PRIMARY)
        scores = {"HSAV": log_variance(each_answer(sums)), "HSS": log_odds(sums)}
        for score, values in scores.items():
            for answer, rows in ((TRUE, pairs.true), (FALSE, pairs.false)):
                names = dict(set=study.name, kind=kind, answer=answer, score=score)
                parts.append(_by_question(study, values[rows]).assign(**names))
    table = pd.concat(parts, ignore_index=True)
    first = ["set", "row_id", "kind", "answer", "score"]
    return table[[*first, *table.columns.difference(first, sort=False)]]


def _by_question(study: SetStudy, values: np.ndarray) -> pd.DataFrame:
    names = [f"b{block}" for block in range(values.shape[1])]
    table = pd.DataFrame(values.astype(np.float16), columns=names)
    table.insert(0, "row_id", [question.row_id for question in study.evaluation.questions])
    return table


def pattern_effects(rows: pd.DataFrame, *, seed: int) -> pd.DataFrame:
    """False less true in standard deviations: set, row_id, kind, score, block, value.

    ``rows``: as of ``pattern_rows``. A set's questions fall into two halves by the seed, the same
    for all kinds and scores; see ``cross_fitted``.
    """
    parts = []
    for names, row_id, difference in _differences(rows):
        n = len(difference)
        half = np.random.default_rng(seed).permutation(n) < n // 2
        block, value = cross_fitted(difference, half)
        own = dict(zip(MEASURED, names, strict=True))
        parts.append(pd.DataFrame({**own, "row_id": row_id, "block": block, "value": value}))
    columns = ["set", "row_id", "kind", "score", "block", "value"]
    return pd.concat(parts, ignore_index=True)[columns]


def cross_fitted(differences: np.ndarray, half: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The block that each question is judged on, and its difference there, (n,) each.

    ``differences``: (n, n_blocks); ``half``: (n,) of bool. The block whose mean is largest in
    standard deviations, its sign and the standard deviation that is the unit are all those of the
    half that a question is not in. 0 where no block varies there: that tells nothing.
    """
    block, value = np.zeros(len(half), dtype=int), np.zeros(len(half))
    for own in (half, ~half):
        other = differences[~own]
        effects, spread = _effects(other)
        picked = int(np.abs(effects).argmax())
        block[own] = picked
        if spread[picked] > 0:
            value[own] = np.sign(effects[picked]) * differences[own, picked] / spread[picked]
    return block, value


def block_effects(rows: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """The effect of falsehood at every block, the mean over the sets named: kind, score, block,
    value, low, high.

    For looking at alone: nothing is corrected for the number of blocks. Limits are those of a
    normal mean in its standard deviations.
    """
    parts = []
    for (_, kind, score), _, difference in _differences(rows[rows.set.isin(names)]):
        effects, _ = _effects(difference)
        own = dict(kind=kind, score=score, block=np.arange(len(effects)), value=effects)
        parts.append(pd.DataFrame({**own, "error": (1 + effects**2 / 2) / len(difference)}))
    by = pd.concat(parts).groupby(["kind", "score", "block"], sort=False)
    table = by.agg(value=("value", "mean"), error=("error", "sum"), n=("error", "size"))
    reach = 1.96 * np.sqrt(table.error) / table.n
    table = table.assign(low=table.value - reach, high=table.value + reach)
    return table[["value", "low", "high"]].reset_index()


def _differences(rows: pd.DataFrame) -> Iterator[tuple[tuple, np.ndarray, np.ndarray]]:
    """(set, kind, score), the questions, and false less true, (n_questions, n_blocks)."""
    blocks = [name for name in rows if name[0] == "b" and name[1:].isdecimal()]
    for names, own in rows.groupby(MEASURED, sort=False):
        true, false = (own[own.answer == answer].set_index("row_id") for answer in (TRUE, FALSE))
        gap = false[blocks].astype(float) - true[blocks].astype(float)
        yield names, gap.index.to_numpy(), gap.to_numpy()


def _effects(differences: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean over standard deviation of every block, 0 where nothing varies, and the latter."""
    spread = differences.std(0)
    zeros = np.zeros_like(spread)
    return np.divide(differences.mean(0), spread, out=zeros, where=spread > 0), spread
