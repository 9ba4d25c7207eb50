"""Notebook 02, table by table: how blocks hold false answers, and what tells them from true."""

import pandas as pd

from avss_utils.chapters.hallucination import intervention, pruned
from avss_utils.chapters.hallucination.conditions import (
    FEW_OF_EACH,
    FEW_ROWS,
    ONE_BLOCK,
    Conditions,
)
from avss_utils.chapters.hallucination.detectors import FITTED, answer_scores
from avss_utils.chapters.hallucination.inputs import Asked
from avss_utils.chapters.hallucination.own_experiment import OwnErrors
from avss_utils.chapters.hallucination.transfer import precision_table, transfer_table
from avss_utils.data import calibrations
from avss_utils.scores.arms import Calibration, curve_plans
from avss_utils.scores.eavss import flagged_blocks
from avss_utils.scores.probes import probe_table
from avss_utils.store.agreement import ANYTHING, checked

Arm = tuple[str, tuple[int, ...]]

A_SET = dict(sets=1, held_out=0, n_questions=24, n_texts=1)
SMALL_PLANS = dict(sets=1, held_out=0, n_questions=8, n_calibration=8, n_texts=1)
CONTRAST = "set kind tokens site limit score block"
ANSWER: dict[str, str | None] = dict(label="DECISION", correct="DECISION", contains="DECISION")
ANSWER |= dict.fromkeys(("f1", "n_tokens", "log_probability", "entropy"), ANYTHING)
UNMOVED = ["tail", *(f"random {number}" for number in range(3))]  # plans that no statistic decides


def _of_first_sets(keys: list[Asked]) -> list[Asked]:
    """The keys of the first two sets."""
    first = list(dict.fromkeys(name for name, _ in keys))[:2]
    return [key for key in keys if key[0] in first]


def _shares(table: pd.DataFrame) -> pd.Series:
    """Whether a profile's scores, none below 0, sum to 1."""
    total = table.groupby(["set", "reading"]).score.transform("sum")
    return (table.score >= 0) & ((total - 1).abs() < 1e-6)


class Hallucination(OwnErrors, Conditions):
    """One function per table, each with how it is verified."""

    @checked(by="set", sizes=ONE_BLOCK, pick="first", numbers="WRITTEN", key="set")
    def questions(self, name: str) -> pd.DataFrame:
        """``SetStudy.questions`` of one set."""
        return self.studies[name].questions()

    @checked(
        by=CONTRAST,
        sizes=ONE_BLOCK,
        pick="first",
        numbers="DIFFERENCE",
        but=dict(p="RANKS", z="RANKS", p_max=ANYTHING),
        only=dict(score=["HSAV"]),
        key="set",
    )
    @checked(
        by=CONTRAST,
        sizes=ONE_BLOCK,
        pick="first",
        numbers="RANKS",
        but=dict.fromkeys(("p", "z", "p_max", "effect"), ANYTHING),
        only=dict(score=["HSS"], limit=["relative"]),
    )
    def contrasts(self, name: str) -> pd.DataFrame:
        """``SetStudy.contrasts`` of one set."""
        sizes = dict(n_permutations=self.p.n_permutations, n_resamples=self.p.n_resamples)
        return self.studies[name].contrasts(**sizes)

    @checked(
        by="set kind",
        sizes=A_SET,
        pick="first",
        but=dict.fromkeys(("value", "low", "high", "n"), ANYTHING),
        key="set",
    )
    def cross_fit(self, name: str) -> pd.DataFrame:
        """``SetStudy.cross_fit`` of one set."""
        return self.studies[name].cross_fit(n_resamples=max(1000, self.p.n_resamples))

    @checked(
        form=lambda t: t.overlap.between(0, 1) & t.rho.between(-1, 1) & (t.transfer >= 0), key="set"
    )
    def halves(self, name: str) -> pd.DataFrame:
        """``SetStudy.halves`` of one set."""
        return self.studies[name].halves(n_seeds=self.p.n_splits, top=self.n_drop)

    @checked(form=lambda t: (t.low <= t.value) & (t.value <= t.high), key="set")
    def half_excess(self, name: str) -> pd.DataFrame:
        """``SetStudy.half_excess`` of one set."""
        sizes = dict(n_splits=self.p.n_splits, n_resamples=self.p.n_resamples)
        return self.studies[name].half_excess(top=self.n_drop, **sizes)

    @checked(form=_shares, key="set")
    def scores(self, name: str) -> pd.DataFrame:
        """``SetStudy.scores`` of one set, with the true labels."""
        return self.studies[name].scores(n_shuffles=0)

    @checked(
        by="reading target",
        sizes=FEW_OF_EACH,
        numbers=ANYTHING,
        but=dict(value="WRITTEN", lift="WRITTEN", n=ANYTHING),
    )
    def transfer(self, scores: pd.DataFrame) -> pd.DataFrame:
        """``transfer.transfer_table`` of the recorded ``scores`` and of labels drawn at random."""
        return transfer_table(pd.concat([scores, self.shuffled]), **self.carried)

    @checked(form=_shares, key="set")
    def rounded(self, name: str) -> pd.DataFrame:
        """``scores`` of the model in bfloat16."""
        return self.coarse[name].scores(n_shuffles=0)

    @checked(by="set reading", sizes=FEW_OF_EACH, numbers="WRITTEN")
    def precisions(self, scores: pd.DataFrame, rounded: pd.DataFrame) -> pd.DataFrame:
        """``transfer.precision_table`` of every set."""
        return precision_table(scores, rounded, top=self.n_drop)

    @checked(
        by="set label block", sizes=ONE_BLOCK, pick="first", but=dict(zeros="COUNT"), key="set"
    )
    def counts(self, name: str) -> pd.DataFrame:
        """``SetStudy.counts`` of one set."""
        return self.studies[name].counts()

    @checked(by="set block", sizes=ONE_BLOCK, pick="first", numbers="RANKS", key="set")
    def probes(self, name: str) -> pd.DataFrame:
        """``probes.probe_table`` of one set."""
        return probe_table(self.studies[name], n_folds=self.p.n_folds)

    @checked(by="set block", sizes=A_SET, pick="first", key="set")
    def flagged(self, name: str) -> pd.DataFrame:
        """``flagged.flagged_blocks`` of one set, a quarter of all: set, block."""
        blocks = flagged_blocks(self.studies[name], top=self.n_drop)
        return pd.DataFrame({"set": name, "block": blocks})

    @checked(
        by="set question is_false",
        sizes=A_SET,
        pick="first",
        numbers="DIFFERENCE",
        but=dict.fromkeys(FITTED, ANYTHING),
        key="set",
    )
    @checked(form=lambda t: t.drop(columns="set").notna().all(axis=1))
    def detectors(self, name: str, flagged: pd.DataFrame) -> pd.DataFrame:
        """``detectors.answer_scores`` of one set, by the blocks ``flagged`` on it."""
        blocks = flagged.block[flagged.set == name].to_list()
        return answer_scores(self.studies[name], blocks, n_folds=self.p.n_folds)

    @checked(
        by="set row_id prompt", sizes=FEW_ROWS, pick=_of_first_sets, but=ANSWER, key="set prompt"
    )
    def own_answers(self, key: Asked) -> pd.DataFrame:
        """``OwnAnswers.rows`` of one (set, prompt)."""
        return self.own(key).rows()

    @checked(form=lambda t: (t.label != "right") & t.f1.between(0, 1) & (t.text != ""))
    def own_examples(self, key: Asked) -> pd.DataFrame:
        """``OwnAnswers.examples`` of one (set, prompt)."""
        return self.own(key).examples(n=2)

    @checked(form=lambda t: t.n_false.between(0, t.n) & t.p.between(0, 1) & t.p_max.between(t.p, 1))
    def own_contrasts(self, key: Asked) -> pd.DataFrame:
        """``OwnAnswers.contrast`` of one (set, prompt)."""
        sizes = dict(n_permutations=self.p.n_permutations, n_resamples=self.p.n_resamples)
        return self.own(key).contrast(**sizes)

    @checked(form=lambda t: t.rise > -1)
    def rises(self) -> pd.DataFrame:
        """``intervention.text_rises`` on neutral text."""
        p, tokenizer = self.p, self.loaded.tokenizer
        sizes = dict(n_tokens=p.n_loss_tokens, context=p.text_length)
        rows, _ = calibrations.scored_texts(tokenizer, p.calibration, part="calibration", **sizes)
        return intervention.text_rises(self.loaded.model, rows, batch_tokens=p.batch_tokens)

    @checked(
        by="set block question",
        sizes=FEW_ROWS,
        pick=lambda keys: keys[:2],
        numbers="DIFFERENCE",
        key="set",
    )
    def without_block(self, name: str) -> pd.DataFrame:
        """``intervention.study_losses`` of one set."""
        return intervention.study_losses(self.studies[name], n_questions=self.p.n_causal)

    @checked(form=lambda t: t["drop"].str.split().map(lambda words: len(set(words))) == t.n_dropped)
    @checked(by="arm n_dropped", sizes=SMALL_PLANS, only=dict(arm=UNMOVED))
    def plans(self) -> pd.DataFrame:
        """``arms.curve_plans``: which blocks each arm removes, EAVSS's by the sets not held out."""
        p = self.p
        return curve_plans(
            p.arms,
            Calibration(self.loaded.model, self.texts, eps=(p.eps,)),
            n_blocks=self.identity["n_blocks"],
            n_drops=[self.n_drop],
            options=dict(eps=p.eps, ratio=p.relative_eps, answers=self.prone),
            n_random=p.n_random,
            seed=p.seed,
        )

    @checked(
        by="arm set row_id",
        sizes=FEW_ROWS,
        but=dict(correct="DECISION", confidence="PROBABILITY"),
        key="arm",
    )
    def choices(self, arm: Arm) -> pd.DataFrame:
        """``pruned.choice_rows`` of one (arm, drop)."""
        asked = [study.evaluation.first(self.p.n_pruned) for study in self.first]
        return pruned.choice_rows(self.judged, asked, arm, batch_tokens=self.p.batch_tokens)

    @checked(by="arm set row_id", sizes=FEW_ROWS, but=ANSWER, key="arm")
    def answered(self, arm: Arm) -> pd.DataFrame:
        """``pruned.answer_rows`` of one (arm, drop)."""
        sizes = dict(max_new_tokens=self.p.max_new_tokens, batch_tokens=self.p.batch_tokens)
        return pruned.answer_rows(self.judged, self.open_questions, arm, **sizes)
