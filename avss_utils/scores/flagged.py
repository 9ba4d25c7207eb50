"""Which blocks are flagged as prone to hallucination, and the answers that say so.

Flagged, in the whole project: the blocks of highest EAVSS by the primary analysis (``PRIMARY``:
residual, answers of equal length, a threshold relative to the block's own scale; the reading
"contrast"), a quarter of all as a rule, on calibration questions.
"""

import numpy as np

from avss_utils.data.answer_sets import PAIRED
from avss_utils.data.rows import normalised
from avss_utils.scores.answer_study import PRIMARY, SetStudy
from avss_utils.scores.contrasts import eavss


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


def flagged_blocks(study: SetStudy, *, top: int) -> list[int]:
    """Numbers of the ``top`` flagged blocks of a study, ascending."""
    sums, pairs = study.sums(study.calibrated, study.calibration, PAIRED, *PRIMARY)
    scores = eavss("contrast", sums, *pairs.weights())[0]
    return sorted(np.argsort(-scores, kind="stable")[:top].tolist())
