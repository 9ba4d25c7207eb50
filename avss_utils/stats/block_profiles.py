"""Profiles over blocks: rank correlations that mind how alike neighbours are, and agreement."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from avss_utils.stats.resampling import Estimate, limits, two_sided_p


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
    if not all(np.isfinite(profile).all() and np.ptp(profile) > 0 for profile in (x, y)):
        raise ValueError("a rank correlation needs two profiles that vary and are finite")
    return _by_shifts(lambda a, b: float(stats.spearmanr(a, b).statistic), x, y)


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

    return _by_shifts(correlation, rest(x), rest(y))


def shifted_correlations(x: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
    """Spearman's rho of two profiles, and of ``x`` with ``y`` turned around by every shift."""
    ours, theirs = _standard_ranks(x), _standard_ranks(y)
    shifts = np.stack([np.roll(theirs, s) for s in range(len(theirs))])
    rho = np.clip(shifts @ ours, -0.999, 0.999)  # so that Fisher's z is finite
    return float(rho[0]), rho[1:]


def _by_shifts(
    correlate: Callable[[np.ndarray, np.ndarray], float], x: np.ndarray, y: np.ndarray
) -> RankCorrelation:
    """The correlation of two profiles, and how often ``y`` turned around does as well."""
    rho = correlate(x, y)
    shifted = [correlate(x, np.roll(y, s)) for s in range(1, len(y))]
    return RankCorrelation(rho, two_sided_p(shifted, rho), len(y))


def autoregressive_p(
    x: np.ndarray, y: np.ndarray, *, rng: np.random.Generator, n_profiles: int = 2000
) -> float:
    """How often an unrelated profile as smooth as ``y`` correlates with ``x`` as well as it.

    The null draws Gaussian AR(1) profiles with the lag-1 correlation of the ranks of ``y``, which
    has no ends to join as a circular shift does, and more draws than there are shifts. Two-sided,
    never below 1 / (n_profiles + 1).
    """
    ours, theirs = _standard_ranks(x), _standard_ranks(y)
    found = np.corrcoef(theirs[:-1], theirs[1:])[0, 1]
    # short profiles look less smooth than they are (Marriott and Pope 1954)
    smoothness = float(np.clip(found + (1 + 4 * found) / len(theirs), -0.99, 0.99))
    noise = rng.standard_normal((n_profiles, len(theirs)))
    drawn = noise.copy()
    for i in range(1, len(theirs)):
        step = np.sqrt(1 - smoothness**2) * noise[:, i]
        drawn[:, i] = smoothness * drawn[:, i - 1] + step
    return two_sided_p(_standard_ranks(drawn) @ ours, theirs @ ours)


def _standard_ranks(profiles: np.ndarray) -> np.ndarray:
    """Ranks along the last axis, less their mean and of length 1; of equal values all are 0."""
    from scipy.stats import rankdata  # half a second, and not every command needs it

    ranks = rankdata(np.asarray(profiles, float), axis=-1)
    ranks = ranks - ranks.mean(-1, keepdims=True)
    return ranks / np.maximum(np.linalg.norm(ranks, axis=-1, keepdims=True), 1e-9)


def correlation_interval(
    score: np.ndarray,
    gains: np.ndarray,
    *,
    rng: np.random.Generator,
    n_resamples: int = 1000,
    stretch: int = 4,
) -> Estimate:
    """Spearman correlation of a score with the mean gain, over blocks, with a bootstrap interval.

    ``score``: (n_blocks,); ``gains``: (n_blocks, n_texts), summed over the tokens of each text.
    Each resample draws texts, and blocks in circular stretches of ``stretch`` neighbours, because
    neighbours are alike (Politis and Romano 1992); the percentiles bound the interval.
    """
    score, n_blocks, n_texts = np.asarray(score, float), *gains.shape
    blocks, sums = [np.arange(n_blocks)], [gains.sum(1)]  # which rank as the means do
    for _ in range(n_resamples):
        starts = rng.integers(0, n_blocks, -(-n_blocks // stretch))
        drawn = ((starts[:, None] + np.arange(stretch)) % n_blocks).ravel()[:n_blocks]
        texts = rng.integers(0, n_texts, n_texts)
        blocks.append(drawn)
        sums.append(gains[np.ix_(drawn, texts)].sum(1))
    rho = (_standard_ranks(score[np.array(blocks)]) * _standard_ranks(np.array(sums))).sum(-1)
    low, high = limits(rho[1:])
    return Estimate(float(rho[0]), low, high, n_blocks)


def kendall_w(ranks: np.ndarray) -> float:
    """Agreement of several rankings, shape (n_rankings, n_items): Kendall's W, in [0, 1].

    1 when all agree; 1 / n_rankings in expectation when they know nothing of each other.
    """
    m, n = ranks.shape
    spread = ((ranks.sum(0) - ranks.sum() / n) ** 2).sum()
    return float(12 * spread / (m**2 * (n**3 - n)))
