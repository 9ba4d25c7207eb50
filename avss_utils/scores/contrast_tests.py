"""Is a contrast of true and false answers more than chance? Permutations, intervals, halves."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import norm

from avss_utils.data.answer_sets import Pairs
from avss_utils.scores.contrasts import (
    READINGS,
    AnswerSums,
    GroupStats,
    each_answer,
    eavss,
    every_eavss,
    group_stats,
    log_variance,
)
from avss_utils.stats.block_profiles import rank_correlation
from avss_utils.stats.resampling import Estimate, limits, moved_onto, resample_counts, two_sided_p

AT_ONCE = 200  # permutations in one product of matrices


@dataclass(frozen=True)
class Labelled:
    """Self-generated answers: whether each is false, and the stratum that labels move within."""

    is_false: np.ndarray
    stratum: np.ndarray

    def weights(self, labels: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
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
    variance = log_variance(false) - log_variance(true)
    return np.stack([variance, np.log(false.sparsity / true.sparsity)])


def contrast_test(
    sums: AnswerSums,
    events: Pairs | Labelled,
    *,
    n_permutations: int,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """HSAV and HSS of every block with a permutation test; one row per score and block.

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


def _permuted(
    events: Pairs | Labelled, n: int, rng: np.random.Generator
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
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
    table = {
        "score": np.repeat(["HSAV", "HSS"], n_blocks),
        "block": np.tile(np.arange(n_blocks), 2),
        "value": found[:, 0].ravel(),
        "low": low.ravel(),
        "high": high.ravel(),
        "effect": np.concatenate([effect, np.full(n_blocks, np.nan)]),
        "n": n,
    }
    return pd.DataFrame(table)


def half_agreement(
    sums: AnswerSums,
    pairs: Pairs,
    reading: str,
    *,
    n_seeds: int,
    top: int,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """Does one half of the questions flag the blocks that the other does?

    One row per seed and labels ("true" as they are, "shuffled" within pairs). Columns: seed,
    labels, rho (Spearman over blocks), overlap (share of the ``top`` blocks in common), transfer
    (of the blocks flagged on one half, mean score on the other over the mean of all blocks there:
    1 where flags tell nothing).
    """
    n, rows = len(pairs.true), []
    for seed in range(n_seeds):
        order = rng.permutation(n)
        halves = np.zeros((2, n))
        halves[0, order[: n // 2]] = halves[1, order[n // 2 :]] = 1
        for labels in ("true", "shuffled"):
            swapped = np.tile(rng.integers(0, 2, n), (2, 1)) if labels == "shuffled" else None
            one, other = eavss(reading, sums, *pairs.weights(halves, swapped))
            flagged, again = (set(np.argsort(-s, kind="stable")[:top]) for s in (one, other))
            transfer = other[list(flagged)].mean() / other.mean()
            rho = rank_correlation(one, other).rho
            rows.append((seed, labels, rho, len(flagged & again) / top, transfer))
    return pd.DataFrame(rows, columns=["seed", "labels", "rho", "overlap", "transfer"])


def half_excess(
    sums: AnswerSums,
    pairs: Pairs,
    *,
    n_splits: int,
    top: int,
    n_resamples: int,
    rng: np.random.Generator,
) -> dict[str, Estimate]:
    """``half_draws`` of ``n_resamples`` resamples of the questions as estimates.

    Their 95 % intervals are cautious: 97 to 100 of 100 made sets had the mean of all of them in
    theirs.
    """
    n = len(pairs.true)
    counts = resample_counts(n, n_resamples, rng)[1:]
    found = {}
    draws = half_draws(sums, pairs, n_splits=n_splits, top=top, counts=counts, rng=rng)
    for reading, (value, *own) in draws.items():
        # nearly equal draws, once moved, can miss the value
        low, high = limits(np.array(own))
        found[reading] = Estimate(float(value), min(low, float(value)), max(high, float(value)), n)
    return found


def half_draws(
    sums: AnswerSums,
    pairs: Pairs,
    *,
    n_splits: int,
    top: int,
    counts: np.ndarray,
    rng: np.random.Generator,
) -> dict[str, np.ndarray]:
    """Share of the ``top`` blocks that two halves have in common, beyond that with shuffled labels.

    By reading of EAVSS, (1 + n_resamples,): of the questions as they are, then of each resample,
    ``counts``, (n_resamples, n_questions): how often it has each. Every split into halves has a
    shuffle of its own; 0 where the labels tell nothing. The first is the mean over as many splits
    as there are resamples. Each of the others takes ``n_splits`` new ones, a question that is drawn
    twice staying in one half; they are moved to have the first as their mean, for questions drawn
    twice make noisier halves.
    """
    rows, n = np.concatenate([pairs.true, pairs.false]), len(pairs.true)
    # answers that stand in no pair only take time
    sums = AnswerSums(sums.n[rows], sums.first[rows], sums.second[rows], sums.zeros[rows])
    pairs = Pairs(np.arange(n), np.arange(n, 2 * n), 2 * n)

    def excess(counts: np.ndarray, size: int) -> np.ndarray:
        halves = rng.permuted(np.tile(np.arange(n) < n // 2, (size, 1)), axis=1)
        weights = np.stack([halves, ~halves], 1).reshape(-1, n) * counts
        swapped = np.repeat(rng.integers(0, 2, (size, n)), 2, axis=0)
        shares = [
            [_shared(own, top) for own in every_eavss(sums, *groups).values()]
            for groups in (pairs.weights(weights), pairs.weights(weights, swapped))
        ]
        return np.subtract(shares[0], shares[1])

    parts = np.array_split(np.arange(len(counts)), -(-len(counts) // AT_ONCE))
    values = np.mean([excess(np.ones(n), len(part)) for part in parts], axis=0)
    draws = np.array([excess(own, n_splits) for own in counts])
    return {
        reading: np.concatenate([[value], moved_onto(value, own)])
        for reading, value, own in zip(READINGS, values, draws.T, strict=True)
    }


def _shared(scores: np.ndarray, top: int) -> float:
    """Mean share of the ``top`` blocks that rows 2i and 2i + 1 of the scores have in common."""
    flagged = np.zeros(scores.shape, dtype=bool)
    np.put_along_axis(flagged, np.argsort(-scores, axis=1, kind="stable")[:, :top], True, axis=1)
    return float((flagged[::2] & flagged[1::2]).sum(1).mean() / top)
