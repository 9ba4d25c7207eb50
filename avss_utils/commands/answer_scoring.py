"""How suspicious each answer of a user's own file is, by a detector fitted on a known set."""

from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from avss_utils.data.answer_sets import PLAIN, Events, events_of
from avss_utils.data.loading import load_open, standard_split
from avss_utils.data.rows import Corpus, OpenQuestion, normalised
from avss_utils.data.wordings import answer_prompt
from avss_utils.errors import UsageError
from avss_utils.measure.answer_tokens import AnswerTokens, collect_answers
from avss_utils.models.load import LoadedModel
from avss_utils.scores.answer_features import Labels, answer_features, baseline_scores
from avss_utils.scores.answer_study import RELATIVE, SetStudy
from avss_utils.scores.eavss import flagged_blocks
from avss_utils.stats.detection import detect, detection_table, fit_detector

SITE = "residual"


def other_questions(name: str, asked: Corpus, *, n_questions: int, seed: int) -> Events:
    """The first ``n_questions`` of a known set's calibration part that ``asked`` does not ask.

    What a detector may be fitted on that scores ``asked``; fewer where the part has no more. Raises
    UsageError where both are the same file, or no question is left.
    """
    known = load_open(name)
    if known.identity["sha256"] == asked.identity["sha256"]:
        raise UsageError(
            f"{asked.name!r} cannot serve both to fit the detector and to be scored: fit it on "
            "another set"
        )
    theirs = {normalised(row.question) for row in _open(asked)}
    part = standard_split(known)["calibration"]
    rows = [row for row in part if normalised(row.question) not in theirs][:n_questions]
    if not rows:
        raise UsageError(
            f"{name!r} has no calibration question that {asked.name!r} does not ask too: fit the "
            "detector on another set"
        )
    return events_of(rows, name, wording=PLAIN, seed=seed)


class AnswerDetector:
    """P(false) of any answer, by logistic regression on the answers of a known set.

    Fitted when first asked, on a true and a false answer of each question in ``known``. Features:
    log variance and log sparsity of the residual over the answer's tokens at the ``top`` blocks
    flagged on ``known``. ``ratio``: the threshold of both, of each block's standard deviation on
    ``known``; ``eps``: the absolute one of a ``SetStudy``.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        known: Events,
        *,
        top: int,
        eps: float,
        ratio: float,
        seed: int,
        batch_tokens: int,
    ) -> None:
        sizes: dict[str, Any] = dict(eps=eps, ratio=ratio, seed=seed, batch_tokens=batch_tokens)
        self.study, self.top = SetStudy(loaded, known, known, sites=(SITE,), **sizes), top

    @cached_property
    def blocks(self) -> list[int]:
        """Numbers of the flagged blocks, ascending."""
        return flagged_blocks(self.study, top=self.top)

    def features(self, tokens: AnswerTokens) -> np.ndarray:
        """``answer_features`` at the flagged blocks, (n_answers, 2 top)."""
        return answer_features(tokens, self.blocks, site=SITE, limit=RELATIVE)

    @cached_property
    def fitted(self):
        """The fitted regression (``detection.fit_detector``)."""
        own = Labels(self.study)
        features = self.features(self.study.tokens)[own.rows]
        return fit_detector(features, own.is_false, seed=self.study.seed)

    def table(self, asked: Corpus) -> pd.DataFrame:
        """One row per answer, row by row: the canonical true answer, then the false ones if any.

        Columns: id (the row's), answer (its number in the row, from 0), is_false (0 or 1), score
        (P(false) in [0, 1], as if half of all answers were false), and those of
        ``detection.baseline_scores``. No answer's numbers depend on other rows. Raises UsageError
        for an answer that leaves no room for its prompt, or as ``collect_answers`` does.
        """
        study = self.study
        rows = _open(asked)
        texts = [(row.answers[0], *row.false_answers) for row in rows]
        prompts = [
            answer_prompt(row, answers, asked.name, PLAIN)
            for row, answers in zip(rows, texts, strict=True)
        ]
        tokens = collect_answers(
            study.loaded.model,
            study.loaded.tokenizer,
            prompts,
            sites=study.sites,
            limits={RELATIVE: study.limits[RELATIVE]},
            batch_tokens=study.batch_tokens,
        )
        n_answers = [len(answers) for answers in texts]
        number = np.concatenate([np.arange(n) for n in n_answers])
        first = {
            "id": np.repeat([row.row_id for row in rows], n_answers),
            "answer": number,
            "is_false": (number > 0).astype(int),
            "score": detect(self.fitted, self.features(tokens)),
        }
        return pd.concat([pd.DataFrame(first), baseline_scores(tokens)], axis=1)


def _open(corpus: Corpus) -> list[OpenQuestion]:
    return [row for row in corpus.rows if isinstance(row, OpenQuestion)]


def separation(table: pd.DataFrame, *, seed: int) -> pd.DataFrame:
    """How well the score and each baseline of an ``AnswerDetector.table`` find its false answers.

    ``detection.detection_table`` with the file's rows as groups. Raises ValueError without a false
    answer.
    """
    names = table.columns.difference(["id", "answer", "is_false"], sort=False)
    scores = {name: table[name].to_numpy() for name in names}
    return detection_table(scores, table.is_false.to_numpy(), table.id.to_numpy(), seed=seed)
