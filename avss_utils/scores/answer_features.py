"""What a detector reads of an answer: its label, features of blocks, and plain scores."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from avss_utils.data.answer_sets import PAIRED
from avss_utils.data.rows import normalised
from avss_utils.measure.answer_tokens import AnswerTokens
from avss_utils.scores.answer_study import SetStudy
from avss_utils.scores.contrasts import answer_sums, each_answer, log_variance


class Labels:
    """The true and the false answers of a study's pairs, questions side by side.

    ``rows``: numbers of the answers; ``is_false``, ``question`` and ``text`` (the normalised
    answer, by which borrowed ones are recognised): (n_answers,) each.
    """

    def __init__(self, study: SetStudy) -> None:
        pairs = study.evaluation.pairs(PAIRED)
        self.rows = np.stack([pairs.true, pairs.false], 1).ravel()
        n = len(pairs.true)
        self.is_false = np.tile([False, True], n)
        self.question = np.repeat(np.arange(n), 2)
        answers = [normalised(text) for _, asked in study.evaluation.asked for text in asked]
        self.text = np.array(answers)[self.rows]


def answer_features(
    tokens: AnswerTokens, blocks: Sequence[int], *, site: str, limit: str
) -> np.ndarray:
    """Log variance, then log sparsity of each answer at ``blocks``: (n_answers, 2 len(blocks)).

    Over all entries of the answer's tokens, as in ``contrasts.group_stats`` for groups of one
    answer: a sparsity without one zero is half a count. ``site`` and ``limit`` as collected, else
    a KeyError.
    """
    each, blocks = each_answer(answer_sums(tokens, site, limit=limit)), list(blocks)
    return np.hstack([log_variance(each)[:, blocks], np.log(each.sparsity[:, blocks])])


def baseline_scores(tokens: AnswerTokens) -> pd.DataFrame:
    """What a detector has to beat, one row per answer; nats but for the length.

    Columns: "summed surprise" (minus the answer's log-probability), "mean surprise" (a token; the
    log of the perplexity), "mean entropy" and "first entropy" (of the distributions before its
    tokens; Kadavath et al. 2022 and Manakul et al. 2023 use them so) and "length" (tokens).
    """
    length = tokens.lengths
    surprise = np.bincount(tokens.answer, -tokens.log_probability, tokens.n_answers)
    entropy = np.bincount(tokens.answer, tokens.entropy, tokens.n_answers)
    first = np.empty(tokens.n_answers)
    start = tokens.position == 0
    first[tokens.answer[start]] = tokens.entropy[start]
    return pd.DataFrame(
        {
            "summed surprise": surprise,
            "mean surprise": surprise / length,
            "mean entropy": entropy / length,
            "first entropy": first,
            "length": length.astype(float),
        }
    )
