"""Notebook 02's tables for the conditions of C7 and C8, by question and by draw."""

from functools import cached_property

import numpy as np
import pandas as pd

from avss_utils.chapters.hallucination import bypassing, pruned
from avss_utils.chapters.hallucination.inputs import Studies
from avss_utils.chapters.hallucination.transfer import transfer_draws
from avss_utils.data import calibrations
from avss_utils.data.own import set_name
from avss_utils.scores import answer_patterns
from avss_utils.store.agreement import ANYTHING, checked

ONE_BLOCK = dict(first_blocks=1, sets=1, held_out=0, n_texts=1)
FEW_ROWS = dict(sets=2, held_out=0, n_generated=1, n_causal=1, n_pruned=1, n_texts=1)
# What is compared follows from recorded scores: of the shuffled ones, made here, a block will do.
FEW_OF_EACH = dict(first_blocks=1, n_questions=4, n_calibration=4, n_shuffles=1, n_texts=1)
FEW_SETS = dict(sets=1, held_out=0, n_questions=8, n_calibration=8, n_texts=1)
FEW_SETS |= dict(n_drawn=2, n_loss_tokens=32)
OF_ANSWERS = dict(by="set row_id kind answer score", sizes=ONE_BLOCK, pick="first")


class Conditions(Studies):
    """One function per table, each with how it is verified."""

    @checked(**OF_ANSWERS, numbers="DIFFERENCE", only=dict(score=["HSAV"]), key="set")
    # A zero more of a short answer is a step: near-ties that fall the other way, one in ten.
    @checked(**OF_ANSWERS, numbers="DECISION", only=dict(score=["HSS"]))
    def pattern_rows(self, name: str) -> pd.DataFrame:
        """``answer_patterns.pattern_rows`` of one set."""
        return answer_patterns.pattern_rows(self.studies[name])

    @checked(by="set row_id kind score", sizes=FEW_OF_EACH, numbers="WRITTEN")
    def pattern_effects(self, pattern_rows: pd.DataFrame) -> pd.DataFrame:
        """``answer_patterns.pattern_effects`` of the recorded rows."""
        return answer_patterns.pattern_effects(pattern_rows, seed=self.p.seed)

    @checked(form=lambda t: t.excess.abs() <= 2, key="set draw")
    def half_draws(self, key: tuple[str, int]) -> pd.DataFrame:
        """``SetStudy.half_draws`` of one (set, draw).

        Draw 0 has the set's questions, another the next as many of its evaluation part. Where the
        part does not have these, it has the same questions and the same resamples of them, with
        other splits and other shuffled labels: what other questions would show is not known then,
        and the interval gets no narrower for it.
        """
        name, draw = key
        study = self.drawn(name, draw)
        resampled = 0 if study is self.studies[name] else draw
        sizes = dict(n_splits=self.p.n_splits, n_resamples=self.p.n_resamples, top=self.n_drop)
        return study.half_draws(draw=draw, resampled=resampled, **sizes)

    @cached_property
    def shuffled(self) -> pd.DataFrame:
        """Scores of every set with labels drawn at random; a thousand of them fill no record."""
        studies = self.studies.values()
        drawn = pd.concat([study.scores(n_shuffles=self.p.n_shuffles) for study in studies])
        return drawn[drawn.draw >= 0]

    @property
    def carried(self) -> dict:
        """From which sets to which flags are to carry over, and how many."""
        sources = [set_name(name) for name in self.p.sets]
        return dict(sources=sources, targets=list(self.studies), top=self.n_drop)

    @checked(
        by="target draw", sizes=FEW_OF_EACH, numbers="WRITTEN", only=dict(draw=[-1]), key="target"
    )
    def transfer_draws(self, scores: pd.DataFrame) -> pd.DataFrame:
        """``transfer.transfer_draws`` of the reading contrast, as of ``transfer``: target, draw,
        shared.
        """
        every = pd.concat([scores, self.shuffled])
        own = transfer_draws(every[every.reading == "contrast"], **self.carried)
        return own[["target", "draw", "shared"]]

    @checked(
        by="arm",
        sizes=FEW_SETS,
        pick="first",
        but=dict(added_bits=ANYTHING),
        only=dict(arm=[f"{bypassing.DRAWN}{number}" for number in range(2)]),
    )
    @checked(form=lambda t: np.isfinite(t.added_bits))
    def set_bits(self, batch: int) -> pd.DataFrame:
        """``bypassing.added_bits`` of a batch of random sets of blocks, on the text of ``rises``;
        the first has the flagged blocks too.
        """
        p, n_blocks = self.p, self.identity["n_blocks"]
        sizes = dict(n_tokens=p.n_loss_tokens, context=p.text_length)
        windows, _ = calibrations.part_windows(
            self.loaded.tokenizer, p.calibration, part="calibration", **sizes
        )
        options = dict(n_blocks=n_blocks, size=self.n_drop, n=p.n_drawn, seed=p.seed)
        sets = bypassing.drawn_sets(batch, **options)
        if batch == 0:
            sets = {bypassing.FLAGGED: self.prone.flagged(top=self.n_drop), **sets}
        return bypassing.added_bits(self.judged, windows, sets, batch_tokens=p.batch_tokens)

    @checked(by="arm set row_id", sizes=FEW_ROWS, but=dict(correct="DECISION"), key="arm")
    def bypassed(self, key: bypassing.Bypass) -> pd.DataFrame:
        """Is the true answer likelier than the false one, without an arm's blocks? Of every set
        that is not held out: arm, set, row_id, correct (0, 1, ties half), added_bits.
        """
        arm, drop, bits = key
        asked = [study.evaluation.first(self.p.n_causal) for study in self.first]
        options = dict(batch_tokens=self.p.batch_tokens)
        table = pruned.choice_rows(self.judged, asked, (arm, drop), **options)
        return table.drop(columns="confidence").assign(added_bits=bits)
