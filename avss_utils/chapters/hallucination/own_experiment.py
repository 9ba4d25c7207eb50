"""Notebook 02, its tables of what the model says by itself and of what finds the errors."""

import pandas as pd

from avss_utils.chapters.hallucination import said_errors
from avss_utils.chapters.hallucination.detectors import AT_RANDOM, FLAGGED
from avss_utils.chapters.hallucination.inputs import Studies
from avss_utils.scores.own_errors import QUESTIONS, SETS
from avss_utils.store.agreement import ANYTHING, checked

# Greedy answers are the record's up to near-ties; where a token differs, all after it may.
FEW_SAID = dict(
    sets=1, held_out=0, n_questions=3, n_calibration=8, n_said=3, n_samples=2, n_texts=1
)
SAID: dict[str, str | None] = dict(label="DECISION", contains="DECISION", meaning="DECISION")
SAID |= dict.fromkeys(("n_tokens", "log_probability", "entropy", "first_entropy"), ANYTHING)


class OwnErrors(Studies):
    """One function per table, each with how it is verified."""

    @checked(
        by="set row_id sample", sizes=FEW_SAID, pick=lambda keys: keys[:1], but=SAID, key="set"
    )
    @checked(form=lambda t: (t.n_tokens >= 0) & (t.log_probability <= 0))
    def said(self, name: str) -> pd.DataFrame:
        """``Said.answers`` of one set."""
        return self.said_of(name).answers()

    @checked(form=lambda t: t.label.isin(["right", "wrong", "abstained"]))
    def said_examples(self, name: str) -> pd.DataFrame:
        """``Said.examples`` of one set: what the model wrote to the first three questions."""
        return self.said_of(name).examples(n=3)

    @checked(
        by="set row_id", sizes=FEW_SAID, pick=lambda keys: keys[:1], numbers=ANYTHING, key="set"
    )
    @checked(form=lambda t: t["p(false)"].between(0, 1) & (t["summed surprise"] >= 0))
    def said_scores(self, name: str) -> pd.DataFrame:
        """``Said.scores`` of one set."""
        return self.said_of(name).scores()

    @checked(form=lambda t: t.drop(columns=["set", "row_id", "score"]).notna().all(axis=1))
    def said_blocks(self, name: str) -> pd.DataFrame:
        """``Said.block_rows`` of one set."""
        return self.said_of(name).block_rows()

    @checked(form=lambda t: t.scope.isin([QUESTIONS, SETS]))
    def said_fitted(
        self, answers: pd.DataFrame, scores: pd.DataFrame, blocks: pd.DataFrame
    ) -> pd.DataFrame:
        """``said_errors.fitted_table`` of all sets that are not held out, by both rules."""
        states = {own.name: self.said_of(own.name).states for own in self.first}
        chosen = {FLAGGED: self.prone.flagged(top=self.n_drop), AT_RANDOM: self.random_blocks}
        options = dict(n_folds=self.p.n_folds, seed=self.p.seed)
        return said_errors.fitted_table(answers, scores, blocks, states, chosen, **options)
