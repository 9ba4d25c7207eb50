"""Intervals, null distributions and rank correlations: every estimate travels with its interval.

All resampling is over the rows handed in (questions, text windows), so that compared things are
compared on the same rows. Randomness is an argument.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

N_RESAMPLES = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A number, its confidence limits and the number of rows behind it."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}], n = {self.n}"


def bootstrap(
    statistic: Callable[..., np.ndarray],
    *samples: np.ndarray,
    rng: np.random.Generator,
    n_resamples: int = N_RESAMPLES,
    level: float = LEVEL,
) -> Estimate:
    """Percentile bootstrap of ``statistic(*samples, axis)``, rows of all samples drawn together.

    Each sample has shape (n,). One sample gives the plain bootstrap, several the paired one. A
    resample whose statistic is not finite (a zero denominator) widens the interval to infinity on
    both sides instead of being dropped. Source: Efron and Tibshirani 1993, chapter 13.
    """
    samples = tuple(np.asarray(s, dtype=float) for s in samples)
    n = len(samples[0])
    if n == 0 or any(len(s) != n for s in samples):
        raise ValueError(f"samples need one common length above 0, got {[len(s) for s in samples]}")
    value = float(statistic(*samples, axis=0))
    chunk = max(1, 4_000_000 // n)
    draws = []
    for start in range(0, n_resamples, chunk):
        rows = rng.integers(0, n, size=(min(chunk, n_resamples - start), n))
        draws.append(statistic(*(s[rows] for s in samples), axis=-1))
    low, high = limits(np.concatenate(draws), level)
    return Estimate(value, low, high, n)


def limits(draws: np.ndarray, level: float = LEVEL) -> tuple[float, float]:
    """Percentiles around ``level`` of the draws; one that is not finite widens both sides."""
    tail = (1 - level) / 2
    low = np.quantile(np.where(np.isfinite(draws), draws, -np.inf), tail, method="lower")
    high = np.quantile(np.where(np.isfinite(draws), draws, np.inf), 1 - tail, method="higher")
    return float(low), float(high)


def mean(x: np.ndarray, *, rng: np.random.Generator) -> Estimate:
    """Mean of ``x``, shape (n,), with its bootstrap interval."""
    return bootstrap(lambda a, axis: a.mean(axis), x, rng=rng)


def safe_ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """numerator / denominator of one shape, NaN where the denominator is not above 0."""
    return np.divide(
        numerator,
        denominator,
        out=np.full(np.shape(numerator), np.nan),
        where=np.asarray(denominator) > 0,
    )


def ratio_of_means(
    numerator: np.ndarray, denominator: np.ndarray, *, rng: np.random.Generator
) -> Estimate:
    """mean(numerator) / mean(denominator) over the same rows, both of shape (n,), paired."""
    return bootstrap(
        lambda a, b, axis: safe_ratio(a.mean(axis), b.mean(axis)), numerator, denominator, rng=rng
    )


def corrected_ratio(
    numerator: np.ndarray, denominator: np.ndarray, chance: np.ndarray, *, rng: np.random.Generator
) -> Estimate:
    """(mean(numerator) - mean(chance)) / (mean(denominator) - mean(chance)), paired over rows.

    ``chance`` is the expected value of a blind guess on each row. Where the denominator's interval
    reaches chance the ratio has no finite interval, and the limits say so (infinite).
    """
    return bootstrap(
        lambda a, b, c, axis: safe_ratio((a - c).mean(axis), (b - c).mean(axis)),
        numerator,
        denominator,
        chance,
        rng=rng,
    )


def proportion(successes: int, n: int, *, level: float = LEVEL) -> Estimate:
    """Share ``successes / n`` with its exact (Clopper-Pearson) interval."""
    from scipy import stats  # half a second, and not every command needs it

    interval = stats.binomtest(int(successes), int(n)).proportion_ci(level, method="exact")
    return Estimate(successes / n, float(interval.low), float(interval.high), int(n))


@dataclass(frozen=True)
class NullComparison:
    """Where an observed value stands in a null distribution (higher = better)."""

    p_value: float
    at_least_as_good: Estimate
    quantile: float


def against_null(observed: float, null: np.ndarray) -> NullComparison:
    """Compare ``observed`` with draws of a null distribution, shape (n,); higher is better.

    ``p_value`` = (1 + draws at least as good) / (1 + n), which is never 0 (Phipson and Smyth 2010);
    ``at_least_as_good`` is the plain share with its exact interval, which tells how far n draws can
    support a verdict; ``quantile`` is the share of draws below the observed value, ties half.
    """
    null = np.asarray(null, dtype=float)
    if not np.isfinite(null).all() or not np.isfinite(observed):
        raise ValueError("the null distribution and the observed value must be finite")
    better = int((null >= observed).sum())
    below = (null < observed).sum() + 0.5 * (null == observed).sum()
    return NullComparison(
        (1 + better) / (1 + len(null)), proportion(better, len(null)), float(below / len(null))
    )


@dataclass(frozen=True)
class RankCorrelation:
    """Spearman's rho and its p-value from circular shifts of one profile over the blocks."""

    rho: float
    p_value: float
    n: int


def rank_correlation(x: np.ndarray, y: np.ndarray) -> RankCorrelation:
    """Spearman correlation of two profiles over blocks, each of shape (n_blocks,).

    Profiles are smooth over depth, so neighbouring blocks are not independent and the textbook
    p-value is far too small. The null turns ``y`` around by each of the n - 1 shifts, which keeps
    its smoothness; two-sided, never below 1 / n.
    """
    from scipy import stats  # half a second, and not every command needs it

    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    rho = float(stats.spearmanr(x, y).statistic)
    if not np.isfinite(rho):
        raise ValueError("a rank correlation needs two profiles that vary and are finite")
    shifted = [stats.spearmanr(x, np.roll(y, s)).statistic for s in range(1, len(y))]
    # rounding must not hide a shift that ties with the observed value
    extreme = int((np.abs(shifted) >= abs(rho) - 1e-12).sum())
    return RankCorrelation(rho, (1 + extreme) / len(y), len(y))


def partial_rank(x: np.ndarray, y: np.ndarray, given: np.ndarray) -> RankCorrelation:
    """Spearman correlation of two profiles over blocks with the ranks of a third taken out of both.

    Tested like ``rank_correlation``, by turning the rest of ``y`` around.
    """
    from scipy.stats import rankdata  # half a second, and not every command needs it

    third = rankdata(given) - (len(given) + 1) / 2

    def rest(profile: np.ndarray) -> np.ndarray:
        ranks = rankdata(profile) - (len(profile) + 1) / 2
        return ranks - third * (ranks @ third) / (third @ third)

    def correlation(a: np.ndarray, b: np.ndarray) -> float:
        lengths = np.sqrt((a @ a) * (b @ b))
        return float(a @ b / lengths) if lengths > 1e-9 else 0.0

    a, b = rest(x), rest(y)
    rho = correlation(a, b)
    shifted = [correlation(a, np.roll(b, s)) for s in range(1, len(b))]
    extreme = int((np.abs(shifted) >= abs(rho) - 1e-12).sum())
    return RankCorrelation(rho, (1 + extreme) / len(b), len(b))


def correlation_interval(
    score: np.ndarray,
    gains: np.ndarray,
    weights: np.ndarray,
    *,
    rng: np.random.Generator,
    n_resamples: int = 1000,
    stretch: int = 4,
) -> Estimate:
    """Spearman correlation of a score with the mean gain, over blocks, with a bootstrap interval.

    ``score``: (n_blocks,); ``gains``: (n_blocks, n_texts), summed over a text's ``weights`` tokens.
    Each resample draws texts, and blocks in circular stretches of ``stretch`` neighbours, because
    neighbours are alike (Politis and Romano 1992); the percentiles bound the interval.
    """
    from scipy.stats import rankdata  # half a second, and not every command needs it

    score, n_blocks, n_texts = np.asarray(score, float), *gains.shape

    def rho(blocks: np.ndarray, texts: np.ndarray) -> float:
        mean = gains[np.ix_(blocks, texts)].sum(1) / weights[texts].sum()
        pair = np.corrcoef(rankdata(score[blocks]), rankdata(mean))
        return float(np.nan_to_num(pair[0, 1]))

    value = rho(np.arange(n_blocks), np.arange(n_texts))
    draws = []
    for _ in range(n_resamples):
        starts = rng.integers(0, n_blocks, -(-n_blocks // stretch))
        blocks = ((starts[:, None] + np.arange(stretch)) % n_blocks).ravel()[:n_blocks]
        draws.append(rho(blocks, rng.integers(0, n_texts, n_texts)))
    low, high = limits(np.array(draws), LEVEL)
    return Estimate(value, low, high, n_blocks)


def kendall_w(ranks: np.ndarray) -> float:
    """Agreement of several rankings, shape (n_rankings, n_items): Kendall's W, in [0, 1].

    1 when all agree; 1 / n_rankings in expectation when they know nothing of each other.
    """
    m, n = ranks.shape
    spread = ((ranks.sum(0) - ranks.sum() / n) ** 2).sum()
    return float(12 * spread / (m**2 * (n**3 - n)))
