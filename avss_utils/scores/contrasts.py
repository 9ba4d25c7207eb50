"""Variance and sparsity of two groups of answers -> HSAV, HSS and the readings of EAVSS.

The equations were never published (arXiv 2411.10069); each reading is a named variant.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from avss_utils.measure.answer_tokens import AnswerTokens
from avss_utils.scores.importance import normalised
from avss_utils.stats.resampling import LEVEL, Estimate

TOKENS = ("all", "last", "skip-first", "matched")


@dataclass(frozen=True)
class AnswerSums:
    """Sums over the chosen tokens of each answer, (n_answers, n_blocks) each.

    ``n``: entries; ``first`` and ``second``: of (x - shift) and its square, the shift one number a
    block; ``zeros``: entries below the limit.
    """

    n: np.ndarray
    first: np.ndarray
    second: np.ndarray
    zeros: np.ndarray

    @cached_property
    def joined(self) -> np.ndarray:
        """All four side by side, (n_answers, 4 n_blocks): one product sums them all."""
        return np.hstack([self.n, self.first, self.second, self.zeros])


@dataclass(frozen=True)
class GroupStats:
    """Population variance and sparsity of groups of answers, (n_groups, n_blocks) each.

    A sparsity without one zero is half a count, as in ``importance.floored_sparsity``.
    """

    variance: np.ndarray
    sparsity: np.ndarray


def chosen_tokens(tokens: AnswerTokens, which: str, *, longest: np.ndarray) -> np.ndarray:
    """Which tokens count, (n_tokens,) of bool: all, last, skip-first, or matched.

    "matched" cuts every answer to ``longest``, (n_answers,): to the shorter of a pair. An answer of
    one token keeps it under "skip-first", for it would leave its pair otherwise.
    """
    length = tokens.lengths[tokens.answer]
    if which == "last":
        return tokens.position == length - 1
    if which == "skip-first":
        return (tokens.position > 0) | (length == 1)
    if which == "matched":
        return tokens.position < longest[tokens.answer]
    if which == "all":
        return np.ones(len(length), dtype=bool)
    raise ValueError(f"unknown choice of tokens {which!r}: choose from {', '.join(TOKENS)}")


def answer_sums(
    tokens: AnswerTokens, site: str, *, limit: str, chosen: np.ndarray | None = None
) -> AnswerSums:
    """Sums of one site by answer over the ``chosen`` tokens, all of them if None."""
    chosen = np.ones(len(tokens.answer), dtype=bool) if chosen is None else chosen
    width, n_answers = tokens.width[site], tokens.n_answers
    mean, m2 = tokens.mean[site][chosen], tokens.m2[site][chosen]
    offset = mean - tokens.mean[site].mean(0)
    answer = tokens.answer[chosen]

    def summed(rows: np.ndarray) -> np.ndarray:
        total = np.zeros((n_answers, rows.shape[1]))
        np.add.at(total, answer, rows)
        return total

    n = np.bincount(answer, minlength=n_answers)[:, None] * width[None]
    return AnswerSums(
        n.astype(float),
        summed(offset * width),
        summed(m2 + offset**2 * width),
        summed(tokens.zeros[site, limit][chosen]),
    )


def group_stats(sums: AnswerSums, weights: np.ndarray) -> GroupStats:
    """Of groups that hold each answer ``weights`` times, (n_groups, n_answers)."""
    return _stats(weights @ sums.joined)


def _stats(totals: np.ndarray) -> GroupStats:
    """Of sums over the answers of each group, laid out as ``AnswerSums.joined``."""
    n, first, second, zeros = np.split(totals, 4, axis=1)
    n = np.maximum(n, 1)
    variance = np.maximum(second / n - (first / n) ** 2, 0.0)
    return GroupStats(variance, np.maximum(zeros, 0.5) / n)


def each_answer(sums: AnswerSums) -> GroupStats:
    """Every answer a group of its own, (n_answers, n_blocks)."""
    return _stats(sums.joined)


def log_variance(group: GroupStats) -> np.ndarray:
    """log of the variance, finite for one that is 0."""
    return np.log(np.maximum(group.variance, 1e-30))


def log_odds(sums: AnswerSums) -> np.ndarray:
    """log((zeros + 1/2) / (n - zeros + 1/2)) of each answer, (n_answers, n_blocks).

    The log odds of (zeros + 1/2) / (n + 1), which stays finite where no entry is zero or all are.
    """
    return np.log((sums.zeros + 0.5) / (sums.n - sums.zeros + 0.5))


def hsav(false: GroupStats, true: GroupStats) -> np.ndarray:
    """Relative excess of the false answers' variance, (n_groups, n_blocks), above -1."""
    return false.variance / true.variance - 1


def hss(false: GroupStats, true: GroupStats) -> np.ndarray:
    """Relative excess of the false answers' sparsity, likewise."""
    return false.sparsity / true.sparsity - 1


def hss_of_counts(zeros: tuple[int, int], entries: tuple[int, int]) -> Estimate:
    """HSS of two counts, (false, true), with its exact interval where both are Poisson.

    Given the sum of the counts the false one is binomial (Przyborowski and Wilenski 1940), whose
    Clopper-Pearson limits become those of the ratio. Infinite above where no true entry is zero.
    """
    false, true = map(int, zeros)
    exposure = entries[1] / entries[0]
    share = binomtest(false, false + true).proportion_ci(LEVEL) if false + true else (0.0, 1.0)
    low, high = (x / (1 - x) * exposure - 1 if x < 1 else np.inf for x in share)
    value = false / true * exposure - 1 if true else np.inf if false else np.nan
    return Estimate(value, low, high, false + true)


def hss_intervals(counts: pd.DataFrame) -> pd.DataFrame:
    """``hss_of_counts`` of every set and block: set, block, false, true (zeros), value, low, high.

    ``counts``: as of ``SetStudy.counts``.
    """
    wide = counts.pivot(index=["set", "block"], columns="label", values=["zeros", "entries"])
    rows = []
    for (name, block), own in wide.sort_index().iterrows():
        zeros, entries = (
            (own[what, "false answers"], own[what, "true answers"]) for what in ("zeros", "entries")
        )
        found = hss_of_counts(zeros, entries)
        rows.append((name, block, *zeros, found.value, found.low, found.high))
    return pd.DataFrame(rows, columns=["set", "block", "false", "true", "value", "low", "high"])


# reading -> its score of groups of false, of true and of both kinds of answers
READINGS: dict[str, Callable[[GroupStats, GroupStats, GroupStats], np.ndarray]] = {
    "contrast": lambda false, true, both: (
        np.abs(hsav(false, true)) / (1 + np.abs(hss(false, true)))
    ),
    "contrast-product": lambda false, true, both: (
        np.abs(hsav(false, true)) * (1 + np.abs(hss(false, true)))
    ),
    "restricted": lambda false, true, both: false.variance / false.sparsity,
    "multiplied": lambda false, true, both: (
        (both.variance / both.sparsity)
        * (false.variance / true.variance)
        * (true.sparsity / false.sparsity)
    ),
}


def eavss(reading: str, sums: AnswerSums, false: np.ndarray, true: np.ndarray) -> np.ndarray:
    """EAVSS of groups by their ``weights``, (n_groups, n_answers): (n_groups, n_blocks).

    Each row is divided by its sum over blocks; high = prone to falsehood. contrast: |HSAV| /
    (1 + |HSS|); contrast-product: |HSAV| (1 + |HSS|); restricted: variance over sparsity of the
    false answers alone; multiplied: AVSS of all answers times the ratio of the variances, false
    over true, over that of the sparsities.
    """
    return every_eavss(sums, false, true)[reading]


def every_eavss(sums: AnswerSums, false: np.ndarray, true: np.ndarray) -> dict[str, np.ndarray]:
    """``eavss`` in all READINGS, whose sums over answers are the same."""
    false, true = (weights @ sums.joined for weights in (false, true))
    groups = [_stats(totals) for totals in (false, true, false + true)]
    return {
        name: np.stack([normalised(row) for row in reading(*groups)])
        for name, reading in READINGS.items()
    }
