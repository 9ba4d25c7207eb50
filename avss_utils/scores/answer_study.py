"""The tables of a study of true and false answers, each set's statistics taken once and kept."""

from collections.abc import Sequence
from copy import copy
from functools import cached_property
from itertools import product

import numpy as np
import pandas as pd

from avss_utils.data.answer_sets import FALSE_FALSE, IRRELEVANT, KINDS, PAIRED, Events, Pairs
from avss_utils.measure.answer_tokens import (
    AnswerTokens,
    absolute_limits,
    collect_answers,
    relative_limits,
)
from avss_utils.models.blocks import decoder_blocks
from avss_utils.models.load import LoadedModel
from avss_utils.scores import contrast_tests
from avss_utils.scores.contrasts import (
    READINGS,
    TOKENS,
    AnswerSums,
    answer_sums,
    chosen_tokens,
    each_answer,
    every_eavss,
    log_variance,
)
from avss_utils.stats.resampling import resample_counts

ABSOLUTE, RELATIVE = "absolute", "relative"
# (tokens, site, limit) of the primary analysis: the whole answer is what the papers look at, its
# length is matched because false answers tend to be longer, and the relative limit because the
# absolute one counts a handful of entries.
PRIMARY = ("matched", "residual", RELATIVE)


class SetStudy:
    """One set: ``calibration`` rows to pick blocks and scales on, ``evaluation`` rows to judge by.

    ``eps``: AVSS's absolute threshold; ``ratio``: the relative one, of each block's standard
    deviation over the true and false answers of the calibration rows.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        calibration: Events,
        evaluation: Events,
        *,
        sites: Sequence[str],
        eps: float,
        ratio: float,
        seed: int,
        batch_tokens: int,
        keep_states: bool = False,
    ) -> None:
        self.loaded, self.calibration, self.evaluation = loaded, calibration, evaluation
        self.name = evaluation.name
        self.sites, self.eps, self.ratio, self.seed = tuple(sites), eps, ratio, seed
        self.batch_tokens, self.keep_states = batch_tokens, keep_states

    @cached_property
    def before(self) -> AnswerTokens:
        """Tokens of the calibration rows, counted at the absolute threshold alone."""
        return self._collect(self.calibration, self._fixed)

    @cached_property
    def tokens(self) -> AnswerTokens:
        """Tokens of the evaluation rows."""
        return self._collect(self.evaluation, self.limits, keep_states=self.keep_states)

    @cached_property
    def calibrated(self) -> AnswerTokens:
        """Tokens of the calibration rows, counted at both thresholds."""
        if self.calibration is self.evaluation:
            return self.tokens
        return self._collect(self.calibration, self.limits)

    @cached_property
    def limits(self) -> dict:
        """The absolute and the relative threshold of each block: name -> site -> (n_blocks,)."""
        return {**self._fixed, RELATIVE: relative_limits(self.before, self.ratio)}

    def on(self, evaluation: Events) -> "SetStudy":
        """The same by the primary analysis, thresholds and all, with other questions to judge by;
        no states are kept.
        """
        other, primary = copy(self), PRIMARY[1]
        vars(other).pop("tokens", None)
        vars(other)["limits"] = {RELATIVE: {primary: self.limits[RELATIVE][primary]}}
        other.evaluation, other.sites, other.keep_states = evaluation, (primary,), False
        return other

    @property
    def _fixed(self) -> dict:
        n_blocks = len(decoder_blocks(self.loaded.model))
        return {ABSOLUTE: absolute_limits(self.eps, self.sites, n_blocks)}

    def questions(self) -> pd.DataFrame:
        """What is asked: set, calibration and evaluation (questions), published (share of false
        answers that are not borrowed), and the mean tokens of true and of false answers.
        """
        pairs, lengths = self.evaluation.pairs(PAIRED), self.tokens.lengths
        row = {
            "set": self.name,
            "calibration": len(self.calibration.questions),
            "evaluation": len(self.evaluation.questions),
            "published": (self.evaluation.origin == "published").mean(),
            "true_tokens": lengths[pairs.true].mean(),
            "false_tokens": lengths[pairs.false].mean(),
        }
        return pd.DataFrame([row])

    def sums(
        self, tokens: AnswerTokens, events: Events, kind: str, which: str, site: str, limit: str
    ) -> tuple[AnswerSums, Pairs]:
        """Sums of the chosen tokens and the pairs of a kind."""
        pairs = events.pairs(kind)
        longest = tokens.lengths.copy()
        shorter = np.minimum(longest[pairs.true], longest[pairs.false])
        longest[pairs.true] = longest[pairs.false] = shorter
        chosen = chosen_tokens(tokens, which, longest=longest)
        return answer_sums(tokens, site, limit=limit, chosen=chosen), pairs

    def contrasts(self, *, n_permutations: int, n_resamples: int) -> pd.DataFrame:
        """HSAV and HSS by block with tests, intervals and effects, every variant and placebo.

        Columns: set, kind, tokens, site, limit, score, block, value, p, p_max, z, low, high,
        effect, n.
        """
        parts = []
        variants = [(PAIRED, *own) for own in product(TOKENS, self.sites, (ABSOLUTE, RELATIVE))] + [
            (kind, *PRIMARY) for kind in (FALSE_FALSE, IRRELEVANT)
        ]
        for kind, which, site, limit in variants:
            sums, pairs = self.sums(self.tokens, self.evaluation, kind, which, site, limit)
            rng = np.random.default_rng(self.seed)
            test = contrast_tests.contrast_test(sums, pairs, n_permutations=n_permutations, rng=rng)
            spread = contrast_tests.contrast_intervals(
                sums, pairs, n_resamples=n_resamples, rng=rng
            )
            own = test.merge(spread.drop(columns="value"), on=["score", "block"])
            names = {"set": self.name, "kind": kind, "tokens": which, "site": site, "limit": limit}
            parts.append(own.assign(**names))
        table = pd.concat(parts, ignore_index=True)
        first = ["set", "kind", "tokens", "site", "limit", "score", "block"]
        return table[[*first, *table.columns.difference(first, sort=False)]]

    def cross_fit(self, *, n_resamples: int) -> pd.DataFrame:
        """Of the block that differs most on calibration rows, the effect on evaluation rows.

        Columns: set, kind, block, effect, low, high, n: the effect is the mean over questions of
        the difference of log variances over its standard deviation, its sign that of the
        calibration rows, so that chance is as often below 0 as above.
        """
        rows = []
        for kind in KINDS:
            first = self._differences(self.before, self.calibration, kind)
            second = self._differences(self.tokens, self.evaluation, kind)
            picked = first.mean(0) / np.maximum(first.std(0), 1e-12)
            block = int(np.abs(picked).argmax())
            own = np.sign(picked[block]) * second[:, block]
            rng = np.random.default_rng(self.seed)
            drawn = own[rng.integers(0, len(own), (n_resamples, len(own)))]
            low, high = np.quantile(drawn.mean(1) / drawn.std(1), [0.025, 0.975])
            effect = own.mean() / own.std()
            rows.append((self.name, kind, block, effect, low, high, len(own)))
        return pd.DataFrame(rows, columns=["set", "kind", "block", "value", "low", "high", "n"])

    def halves(self, *, n_seeds: int, top: int) -> pd.DataFrame:
        """``contrast_tests.half_agreement`` of every reading: set, reading, ..."""
        sums, pairs = self.sums(self.tokens, self.evaluation, PAIRED, *PRIMARY)
        parts = []
        for reading in READINGS:
            own = contrast_tests.half_agreement(
                sums, pairs, reading, n_seeds=n_seeds, top=top, rng=np.random.default_rng(self.seed)
            )
            parts.append(own.assign(set=self.name, reading=reading))
        return pd.concat(parts, ignore_index=True)

    def half_excess(self, *, n_splits: int, top: int, n_resamples: int) -> pd.DataFrame:
        """``contrast_tests.half_excess`` of every reading: set, reading, value, low, high, n."""
        sums, pairs = self.sums(self.tokens, self.evaluation, PAIRED, *PRIMARY)
        rng = np.random.default_rng(self.seed)
        found = contrast_tests.half_excess(
            sums, pairs, n_splits=n_splits, top=top, n_resamples=n_resamples, rng=rng
        )
        rows = [(self.name, reading, e.value, e.low, e.high, e.n) for reading, e in found.items()]
        return pd.DataFrame(rows, columns=["set", "reading", "value", "low", "high", "n"])

    def half_draws(
        self, *, draw: int, resampled: int, n_splits: int, top: int, n_resamples: int
    ) -> pd.DataFrame:
        """``contrast_tests.half_draws`` of the reading contrast: set, draw, resample, excess.

        Resample -1 has the questions as they are. ``draw`` seeds splits and shuffled labels,
        ``resampled`` which questions each resample has: draws of the same questions have the same
        resamples, so that their mean is no surer of the questions than one of them.
        """
        sums, pairs = self.sums(self.tokens, self.evaluation, PAIRED, *PRIMARY)
        rng = np.random.default_rng([self.seed, resampled])
        counts = resample_counts(len(pairs.true), n_resamples, rng)[1:]
        if draw != resampled:
            rng = np.random.default_rng([self.seed, draw])
        sizes = dict(n_splits=n_splits, top=top)
        found = contrast_tests.half_draws(sums, pairs, **sizes, counts=counts, rng=rng)["contrast"]
        names = {"set": self.name, "draw": draw, "resample": np.arange(len(found)) - 1}
        return pd.DataFrame({**names, "excess": found})

    def scores(self, *, n_shuffles: int) -> pd.DataFrame:
        """EAVSS by block: set, reading, draw, block, score; draw -1 has the true labels.

        The others have labels swapped within questions at random: what a reading says of a block
        without knowing which answer is false.
        """
        sums, pairs = self.sums(self.tokens, self.evaluation, PAIRED, *PRIMARY)
        rng = np.random.default_rng(self.seed)
        swapped = rng.integers(0, 2, (n_shuffles + 1, len(pairs.true)))
        swapped[0] = 0
        parts = []
        for reading, found in every_eavss(sums, *pairs.weights(swapped=swapped)).items():
            draw, block = np.indices(found.shape)
            table = {"draw": draw.ravel() - 1, "block": block.ravel(), "score": found.ravel()}
            parts.append(pd.DataFrame({"set": self.name, "reading": reading, **table}))
        return pd.concat(parts, ignore_index=True)

    def counts(self) -> pd.DataFrame:
        """Entries below AVSS's epsilon, where HSS comes from: set, block, label, zeros, entries.

        ``label``: true answers or false answers.
        """
        sums, pairs = self.sums(self.tokens, self.evaluation, PAIRED, "all", "residual", ABSOLUTE)
        parts = []
        for label, rows in (("true answers", pairs.true), ("false answers", pairs.false)):
            zeros, entries = sums.zeros[rows].sum(0), sums.n[rows].sum(0)
            table = {"block": np.arange(len(zeros)), "zeros": zeros, "entries": entries}
            parts.append(pd.DataFrame(table).assign(set=self.name, label=label))
        return pd.concat(parts, ignore_index=True)

    def _differences(self, tokens: AnswerTokens, events: Events, kind: str) -> np.ndarray:
        """Log variance of each false answer less that of its true one, (n_pairs, n_blocks)."""
        which, site, _ = PRIMARY  # a variance has no threshold
        sums, pairs = self.sums(tokens, events, kind, which, site, ABSOLUTE)
        logs = log_variance(each_answer(sums))
        return logs[pairs.false] - logs[pairs.true]

    def _collect(self, events: Events, limits: dict, *, keep_states: bool = False) -> AnswerTokens:
        return collect_answers(
            self.loaded.model,
            self.loaded.tokenizer,
            events.asked,
            sites=self.sites,
            limits=limits,
            keep_states=keep_states,
            batch_tokens=self.batch_tokens,
        )
