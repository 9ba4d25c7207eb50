"""The model's own answers: which are false, and whether the blocks held them otherwise."""

from functools import cached_property

import numpy as np
import pandas as pd

from avss_utils.data.answer_sets import PAIRED, prompted
from avss_utils.measure.answer_tokens import AnswerTokens, collect_answers, relative_limits
from avss_utils.measure.own_answers import ABSTAINED, FALSE, RIGHT, generated_answers
from avss_utils.models.load import LoadedModel
from avss_utils.scores.answer_study import RELATIVE, SetStudy
from avss_utils.scores.contrast_tests import Labelled, contrast_test
from avss_utils.scores.contrasts import answer_sums, each_answer, log_variance
from avss_utils.scores.strata import adjusted_effects, strata

FEWEST = 5


def generated_contrast(
    tokens: AnswerTokens,
    table: pd.DataFrame,
    difficulty: np.ndarray,
    *,
    n_permutations: int,
    n_resamples: int,
    seed: int,
) -> pd.DataFrame:
    """``contrast_test`` of false against right answers within strata; a column set.

    For HSAV also ``adjusted_effects`` of the answers' log variances: effect, low, high. Empty where
    there are fewer than FEWEST of either: labels that cannot move test nothing.
    """
    labelled = Labelled((table.label == FALSE).to_numpy(), strata(tokens.lengths, difficulty))
    if min(labelled.is_false.sum(), (~labelled.is_false).sum()) < FEWEST:
        names = ["score", "block", "value", "p", "p_max", "z", "effect", "low", "high", "set"]
        return pd.DataFrame(columns=names)
    sums, rng = answer_sums(tokens, "residual", limit=RELATIVE), np.random.default_rng(seed)
    found = contrast_test(sums, labelled, n_permutations=n_permutations, rng=rng)
    logs = log_variance(each_answer(sums))
    effects = adjusted_effects(
        logs, labelled.is_false, labelled.stratum, n_resamples=n_resamples, rng=rng
    )
    found = found.merge(effects.assign(score="HSAV"), on=["score", "block"], how="left")
    return found.assign(set=table["set"].iloc[0])


class OwnAnswers:
    """Greedy answers to a study's questions in one prompt: given once, by ``judged``, and kept.

    ``judged``: the model in the dtype that answers; the statistics are those of the study's own.
    """

    def __init__(
        self,
        judged: LoadedModel,
        study: SetStudy,
        prompt: str,
        *,
        n_questions: int,
        max_new_tokens: int,
    ) -> None:
        self.judged, self.study, self.prompt = judged, study, prompt
        self.max_new_tokens = max_new_tokens
        asked = study.evaluation.first(n_questions)
        self.events = prompted(asked, study.loaded.tokenizer, prompt, study.calibration)

    @cached_property
    def _found(self) -> tuple[pd.DataFrame, list[str]]:
        return generated_answers(
            self.judged,
            self.events,
            max_new_tokens=self.max_new_tokens,
            batch_tokens=self.study.batch_tokens,
        )

    def rows(self) -> pd.DataFrame:
        """``generated_answers`` with a column prompt; no text."""
        table = self._found[0].copy()
        table.insert(0, "prompt", self.prompt)
        return table

    def examples(self, *, n: int) -> pd.DataFrame:
        """The first ``n`` answers on which the two rules differ: what the model wrote, and how it
        was judged; the data set's own answers are not copied.
        """
        table, texts = self._found
        table = table.assign(text=texts, prompt=self.prompt)
        differs = table.contains & ~table.correct
        return table.loc[differs, ["set", "prompt", "row_id", "label", "f1", "text"]].head(n)

    def contrast(self, *, n_permutations: int, n_resamples: int) -> pd.DataFrame:
        """``generated_contrast`` by both rules: with columns prompt, rule (match, contains), n,
        n_false.

        Answers that are no abstentions are read again after their prompts, which can part them into
        other tokens than they were made of. Difficulty is the log-probability of the question's
        true answer.
        """
        table, texts = self._found
        study, parts = self.study, []
        given = np.flatnonzero(table.label != ABSTAINED)
        prompts = [self.events.asked[i][0] for i in given]
        spaces = ["" if prompt[-1].isspace() else " " for prompt in prompts]
        asked = [(p, (s + texts[i],)) for p, s, i in zip(prompts, spaces, given, strict=True)]
        tokens = collect_answers(
            study.loaded.model,
            study.loaded.tokenizer,
            asked,
            sites=("residual",),
            limits={RELATIVE: relative_limits(study.before, study.ratio)},
            batch_tokens=study.batch_tokens,
        )
        kept = table.iloc[given].reset_index(drop=True)
        loose = kept.assign(label=np.where(kept.contains, RIGHT, FALSE))
        for rule, labelled in (("match", kept), ("contains", loose)):
            found = generated_contrast(
                tokens,
                labelled,
                self._difficulty[given],
                n_permutations=n_permutations,
                n_resamples=n_resamples,
                seed=study.seed,
            )
            counts = dict(n=len(kept), n_false=int((labelled.label == FALSE).sum()))
            parts.append(found.assign(prompt=self.prompt, rule=rule, **counts))
        return pd.concat(parts, ignore_index=True)

    @property
    def _difficulty(self) -> np.ndarray:
        """Log-probability of the true answer of each question asked, (n_questions,)."""
        tokens = self.study.tokens
        summed = np.bincount(tokens.answer, tokens.log_probability, tokens.n_answers)
        return summed[self.study.evaluation.pairs(PAIRED).true][: len(self.events.questions)]
