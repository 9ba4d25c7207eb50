"""Scores -> which blocks go."""

from collections.abc import Callable

import numpy as np

from avss_utils.errors import UsageError
from avss_utils.models.plan import PruningPlan
from avss_utils.scores.importance import normalised


def plan_lowest(scores: np.ndarray, *, n_drop: int) -> PruningPlan:
    """Drop the ``n_drop`` least important blocks; among equal scores the earlier block goes."""
    scores = _finite(scores)
    order = np.argsort(scores, kind="stable")
    return PruningPlan(tuple(order[: _checked(n_drop, len(scores))]), len(scores), "lowest")


def plan_contiguous(span_scores: np.ndarray, *, n_drop: int) -> PruningPlan:
    """Drop the run of ``n_drop`` blocks with the lowest score, shape (n_blocks - n_drop + 1,).

    Source: Gromov et al. (arXiv 2403.17887), with the angular distance across n_drop blocks.
    """
    start = int(np.argmin(_finite(span_scores)))
    n_blocks = len(span_scores) + n_drop - 1
    return PruningPlan(tuple(range(start, start + n_drop)), n_blocks, "contiguous")


def plan_tail(n_blocks: int, *, n_drop: int) -> PruningPlan:
    """Drop the last ``n_drop`` blocks."""
    first = n_blocks - _checked(n_drop, n_blocks)
    return PruningPlan(tuple(range(first, n_blocks)), n_blocks, "tail")


def plan_random(
    n_blocks: int, *, n_drop: int, rng: np.random.Generator, protect_ends: bool = False
) -> PruningPlan:
    """Drop a uniform random set; ``protect_ends`` never takes the first or the last block.

    A uniform set often holds block 0, which no pre-norm model survives, so the end-protected sets
    are the harder null.
    """
    pool = np.arange(1, n_blocks - 1) if protect_ends else np.arange(n_blocks)
    drop = rng.choice(pool, size=_checked(n_drop, min(len(pool) + 1, n_blocks)), replace=False)
    return PruningPlan(tuple(drop), n_blocks, "random-protected" if protect_ends else "random")


def plan_iterative(
    score: Callable[[tuple[int, ...]], np.ndarray], n_blocks: int, *, n_drop: int
) -> PruningPlan:
    """Drop the least important block, score again without it, and so on ``n_drop`` times.

    ``score(drop)`` returns scores of all ``n_blocks`` with ``drop`` bypassed; those of the dropped
    blocks are not read.
    """
    drop: tuple[int, ...] = ()
    for _ in range(_checked(n_drop, n_blocks)):
        scores = np.array(score(drop), dtype=float)
        scores[list(drop)] = np.inf
        drop = (*drop, int(np.argmin(scores)))
    return PruningPlan(drop, n_blocks, "iterative")


def plan_as_released(scores: np.ndarray, *, ratio: float) -> PruningPlan:
    """The released script's rule: cumulative normalised score in layer order, sorted, cut at ratio.

    Summing before sorting makes it a cut in depth, not a share of the layers. Scores must not be
    negative. If even the first block holds more than the ratio, nothing is dropped; at least one
    block always stays.
    """
    scores = _finite(scores)
    if (scores < 0).any():
        raise UsageError("the released rule sums normalised scores and needs them non-negative")
    cumulative = np.cumsum(normalised(scores))
    order = np.argsort(cumulative, kind="stable")
    drop = order[np.sort(cumulative) <= ratio][: len(scores) - 1]
    return PruningPlan(tuple(drop), len(scores), "as-released")


def _checked(n_drop: int, n_blocks: int) -> int:
    if not 0 <= n_drop < n_blocks:
        raise UsageError(f"{n_drop} blocks cannot go: from 0 to {n_blocks - 1} are allowed")
    return n_drop


def _finite(scores: np.ndarray) -> np.ndarray:
    scores = np.asarray(scores, dtype=float)
    if not np.isfinite(scores).all():
        raise UsageError("scores must be finite numbers, one a block")
    return scores
