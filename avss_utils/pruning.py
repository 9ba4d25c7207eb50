"""Scores -> which blocks go."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from avss_utils.errors import UsageError
from avss_utils.importance import normalised


@dataclass(frozen=True)
class PruningPlan:
    """Numbers of the removed blocks, ascending, of a model with ``n_blocks``, and the rule."""

    drop: tuple[int, ...]
    n_blocks: int
    rule: str

    def __post_init__(self) -> None:
        drop = tuple(sorted(int(i) for i in self.drop))
        object.__setattr__(self, "drop", drop)
        if len(set(drop)) != len(drop) or (drop and not 0 <= drop[0] <= drop[-1] < self.n_blocks):
            raise UsageError(
                f"removed blocks must be different numbers from 0 to {self.n_blocks - 1}: {drop}"
            )

    @property
    def keep(self) -> tuple[int, ...]:
        return tuple(i for i in range(self.n_blocks) if i not in self.drop)


def n_to_drop(n_blocks: int, *, ratio: float) -> int:
    """floor(ratio x n_blocks), the papers' "lowest 25 %"; ratio in (0, 1), at least one block."""
    if not (isinstance(ratio, (int, float)) and 0 < ratio < 1):
        raise UsageError(f"drop_ratio must be a number above 0 and below 1, not {ratio!r}")
    n = math.floor(ratio * n_blocks + 1e-9)  # 0.29 x 100 is 28.999... in floating point
    if n < 1:
        least = math.ceil(1000 / n_blocks) / 1000
        raise UsageError(
            f"drop_ratio {ratio} removes none of {n_blocks} blocks: take {least} or more"
        )
    return n


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


def as_text(drop: Iterable[int]) -> str:
    """Block numbers as one CSV cell: "3 4 17"; "-" for none."""
    return " ".join(map(str, drop)) or "-"


def as_drop(text: str) -> tuple[int, ...]:
    """The inverse of ``as_text``; UsageError for anything else."""
    words = [] if str(text).strip() == "-" else str(text).replace(",", " ").split()
    if not all(word.isdecimal() for word in words):
        raise UsageError(f'block numbers are written like "3 4 17", not {text!r}')
    return tuple(int(word) for word in words)


def _checked(n_drop: int, n_blocks: int) -> int:
    if not 0 <= n_drop < n_blocks:
        raise UsageError(f"{n_drop} blocks cannot go: from 0 to {n_blocks - 1} are allowed")
    return n_drop


def _finite(scores: np.ndarray) -> np.ndarray:
    scores = np.asarray(scores, dtype=float)
    if not np.isfinite(scores).all():
        raise UsageError("scores must be finite numbers, one a block")
    return scores
