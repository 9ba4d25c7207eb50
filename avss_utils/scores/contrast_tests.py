"""Is a contrast of true and false answers more than chance? Permutations and intervals."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import norm

from avss_utils.data.answer_sets import Pairs
from avss_utils.scores.contrasts import (
    AnswerSums,
    GroupStats,
    each_answer,
    group_stats,
    log_variance,
)
from avss_utils.stats.resampling import resample_counts, two_sided_p

AT_ONCE = 200  # permutations in one product of matrices


@dataclass(frozen=True)
class Labelled:
    """Self-generated answers: whether each is false, and the stratum that labels move within."""

    is_false: np.ndarray
    stratum: np.ndarray

    def weights(self, labels: np.ndarray | None = None):
        """(false, true) of one or more labellings, (n_groups, n_answers) each."""
        labels = self.is_false[None] if labels is None else labels
        return labels.astype(float), 1.0 - labels

    def shuffled(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Labels drawn anew within each stratum, (n, n_answers)."""
        found = np.empty((n, len(self.is_false)), dtype=bool)
        for stratum in np.unique(self.stratum):
            own = np.flatnonzero(self.stratum == stratum)
            found[:, own] = rng.permuted(np.tile(self.is_false[own], (n, 1)), axis=1)
        return found


def log_ratios(false: GroupStats, true: GroupStats) -> np.ndarray:
    """log of false over true, of variance and of sparsity: (2, n_groups, n_blocks).

    What is tested: it changes its sign when labels are swapped, which HSAV and HSS do not.
    """
    return np.stack(
        [
            log_variance(false) - log_variance(true),
            np.log(false.sparsity / true.sparsity),
        ]
    )


def contrast_test(
    sums: AnswerSums,
    events: Pairs | Labelled,
    *,
    n_permutations: int,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """HSAV and HSS of every block with a permutation test; a row a score and block.

    Columns: score, block, value, p (two-sided, of the block alone), p_max (of the largest of all
    blocks, each in units of its own null: holds the family-wise error over a score's blocks), z
    (the log ratio in those units). Labels are swapped within pairs, or shuffled within strata.
    """
    observed = log_ratios(*(group_stats(sums, w) for w in events.weights()))[:, 0]
    drawn = [
        log_ratios(*(group_stats(sums, w) for w in part))
        for part in _permuted(events, n_permutations, rng)
    ]
    null = np.concatenate(drawn, axis=1)
    spread = np.sqrt((null**2).mean(1))
    spread = np.where(spread > 0, spread, np.inf)
    z, null_z = observed / spread, np.abs(null) / spread[:, None]
    rows = []
    for number, score in enumerate(("HSAV", "HSS")):
        largest = null_z[number].max(1)
        for block, value in enumerate(np.abs(z[number])):
            own = two_sided_p(null_z[number][:, block], value)
            ratio = np.expm1(observed[number][block])
            rows.append((score, block, ratio, own, two_sided_p(largest, value), z[number][block]))
    return pd.DataFrame(rows, columns=["score", "block", "value", "p", "p_max", "z"])


def pooled(contrasts: pd.DataFrame) -> pd.DataFrame:
    """Several sets' contrasts of one variant as one: score, block, value, p, p_max, n (sets).

    ``value`` is the mean. The p-values are two-sided ones of Stouffer's sum of z over the square
    root of n, for sets are independent; p_max after Bonferroni's correction for the blocks.
    """
    by = contrasts.groupby(["score", "block"], sort=False)
    table = by.agg(value=("value", "mean"), z=("z", "sum"), n=("z", "size")).reset_index()
    table["p"] = 2 * norm.sf(np.abs(table.z) / np.sqrt(table.n))
    n_blocks = table.groupby("score").block.transform("size")
    table["p_max"] = np.minimum(table.p * n_blocks, 1.0)
    return table.drop(columns="z")


def _permuted(events, n: int, rng: np.random.Generator) -> Iterator[tuple]:
    """(false, true) weights of ``n`` permutations, some at once."""
    for start in range(0, n, AT_ONCE):
        size = min(AT_ONCE, n - start)
        if isinstance(events, Pairs):
            yield events.weights(swapped=rng.integers(0, 2, (size, len(events.true))))
        else:
            yield events.weights(events.shuffled(size, rng))


def contrast_intervals(
    sums: AnswerSums, pairs: Pairs, *, n_resamples: int, rng: np.random.Generator
) -> pd.DataFrame:
    """95 % intervals of HSAV and HSS over questions: score, block, value, low, high, effect, n.

    ``effect``: of HSAV alone, the mean over pairs of the difference of the answers' log variances
    over its standard deviation; NaN for HSS, whose counts a single answer is too short for.
    """
    n = len(pairs.true)
    counts = resample_counts(n, n_resamples, rng)
    found = np.concatenate(
        [
            np.expm1(log_ratios(*(group_stats(sums, w) for w in pairs.weights(counts=part))))
            for part in np.array_split(counts, -(-len(counts) // AT_ONCE))
        ],
        axis=1,
    )
    low, high = np.quantile(found[:, 1:], [0.025, 0.975], axis=1)
    logs = log_variance(each_answer(sums))
    difference = logs[pairs.false] - logs[pairs.true]
    spread = difference.std(0)
    effect = np.divide(difference.mean(0), spread, out=np.zeros_like(spread), where=spread > 0)
    n_blocks = found.shape[2]
    parts = [
        pd.DataFrame(
            {
                "score": score,
                "block": np.arange(n_blocks),
                "value": found[i, 0],
                "low": low[i],
                "high": high[i],
                "effect": effect if score == "HSAV" else np.nan,
                "n": n,
            }
        )
        for i, score in enumerate(("HSAV", "HSS"))
    ]
    return pd.concat(parts, ignore_index=True)
