"""Intervals and null distributions: every estimate travels with its interval.

All resampling is over the rows handed in (questions, text windows), so that compared things are
compared on the same rows. Randomness is an argument.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

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
    low, high = limits(np.concatenate(draws))
    return Estimate(value, low, high, n)


def limits(draws: np.ndarray, level: float = LEVEL) -> tuple[float, float]:
    """Percentiles around ``level`` of the draws; one that is not finite widens both sides."""
    tail = (1 - level) / 2
    low = np.quantile(np.where(np.isfinite(draws), draws, -np.inf), tail, method="lower")
    high = np.quantile(np.where(np.isfinite(draws), draws, np.inf), 1 - tail, method="higher")
    return float(low), float(high)


def moved_onto(value: float, draws: np.ndarray) -> np.ndarray:
    """The draws, (n,), shifted so that the mean of the finite ones is the value.

    For statistics that resampling itself adds to, such as errors and disagreements.
    """
    return draws - (draws[np.isfinite(draws)].mean() - value)


def resample_counts(n: int, n_resamples: int, rng: np.random.Generator) -> np.ndarray:
    """How often each of n rows is drawn, (1 + n_resamples, n): once each, then in every resample.

    For statistics that are sums over rows, of which all resamples are one product of matrices.
    Not to be written to: the last few are kept, for drawing them costs more than all that is
    computed from them, and every arm of a comparison asks for the same ones.
    """
    key = (n, n_resamples, repr(rng.bit_generator.state))
    if key in _drawn:
        counts, rng.bit_generator.state = _drawn[key]
        return counts
    drawn = rng.multinomial(n, [1 / n] * n, n_resamples)
    counts = np.vstack([np.ones(n, dtype=drawn.dtype), drawn])
    counts.setflags(write=False)
    if n > FEW_ROWS:
        if len(_drawn) >= KEPT_DRAWS:
            del _drawn[next(iter(_drawn))]
        _drawn[key] = counts, rng.bit_generator.state
    return counts


FEW_ROWS = 50  # of fewer, such as seeds, draws cost little
KEPT_DRAWS = 8  # of 2,000 resamples of 600 rows each is 10 MB
_drawn: dict[tuple, tuple[np.ndarray, Any]] = {}


def mean_of_estimates(estimates: Sequence[Estimate]) -> Estimate:
    """The mean of independent estimates; half-widths add as standard errors do."""
    value = float(np.mean([e.value for e in estimates]))
    below, above = (
        float(np.sqrt(np.sum(np.square(reach)))) / len(estimates)
        for reach in zip(*((e.value - e.low, e.high - e.value) for e in estimates), strict=True)
    )
    return Estimate(value, value - below, value + above, sum(e.n for e in estimates))


def safe_ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """numerator / denominator of one shape, NaN where the denominator is not above 0."""
    return np.divide(
        numerator,
        denominator,
        out=np.full(np.shape(numerator), np.nan),
        where=np.asarray(denominator) > 0,
    )


def proportion(successes: int, n: int) -> Estimate:
    """Share ``successes / n`` with its exact (Clopper-Pearson) interval."""
    from scipy import stats  # half a second, and not every command needs it

    interval = stats.binomtest(int(successes), int(n)).proportion_ci(LEVEL, method="exact")
    return Estimate(successes / n, float(interval.low), float(interval.high), int(n))


def two_sided_p(null: ArrayLike, value: float) -> float:
    """(1 + draws at least as far from 0 as ``value``) / (1 + n), never 0 (Phipson and Smyth 2010).

    ``null``: (n,) draws of a statistic that is 0 on average. Rounding must not hide a draw that
    ties with the observed value.
    """
    extreme = np.abs(null) >= abs(value) - 1e-12
    return float((1 + extreme.sum()) / (1 + len(extreme)))


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


DETECTABLE = 2.8  # standard errors: 1.96 for two-sided 5 % and 0.84 for 80 % power


def detectable(estimate: Estimate) -> float:
    """The smallest effect that an interval as wide as this one finds with 80 % power.

    1.43 half-widths of a 95 % interval; infinite where a limit is not finite.
    """
    width = estimate.high - estimate.low
    return DETECTABLE * width / (2 * 1.96) if np.isfinite(width) else np.inf
