"""Are the same blocks flagged on another set, or in another number format?"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from avss_utils.stats.block_profiles import rank_correlation
from avss_utils.stats.resampling import against_null


def transfer_table(
    scores: pd.DataFrame, *, sources: Sequence[str], targets: Sequence[str], top: int
) -> pd.DataFrame:
    """Of the ``top`` blocks flagged on the sources, how many the target flags too; one row per
    reading and target.

    See ``transfer_draws``. Columns: reading, target, value (share in common), shuffled (the mean
    share where all sets have labels at random), excess, lift, lift_shuffled, p, and as_good (share
    of draws that have at least as many in common) with its exact interval low to high over n draws.
    """
    rows = []
    draws = transfer_draws(scores, sources=sources, targets=targets, top=top)
    for names, own in draws.groupby(["reading", "target"], sort=False):
        shares, lifts = own.shared.to_numpy(), own.lift.to_numpy()
        shuffled, place = shares[1:].mean(), against_null(shares[0], shares[1:])
        found = (shares[0], shuffled, shares[0] - shuffled, lifts[0], lifts[1:].mean())
        share = place.at_least_as_good
        as_good = (share.value, share.low, share.high, share.n)
        rows.append((*names, *found, place.p_value, *as_good))
    columns = ["reading", "target", "value", "shuffled", "excess", "lift", "lift_shuffled"]
    columns += ["p", "as_good", "low", "high", "n"]
    return pd.DataFrame(rows, columns=columns)


def transfer_draws(
    scores: pd.DataFrame, *, sources: Sequence[str], targets: Sequence[str], top: int
) -> pd.DataFrame:
    """Draw by draw, one row per reading, target and draw; draw -1, the true labels, comes first.

    ``scores``: as of ``SetStudy.scores``, with shuffled draws. Flagged: highest mean over the
    sources other than the target. Columns: reading, target, draw, shared (share of the flagged
    blocks that the target flags too), lift (mean score of the flagged blocks on the target over the
    mean of all blocks there; 1 where flags tell nothing).
    """
    parts = []
    for reading, own in scores.groupby("reading", sort=False):
        by_set = {name: _wide(part) for name, part in own.groupby("set", sort=False)}
        for target in targets:
            others = np.mean([by_set[name] for name in sources if name != target], axis=0)
            shares, lifts = _compared(others, by_set[target], top)
            names = {"reading": reading, "target": target, "draw": np.arange(len(shares)) - 1}
            parts.append(pd.DataFrame({**names, "shared": shares, "lift": lifts}))
    return pd.concat(parts, ignore_index=True)


def precision_table(scores: pd.DataFrame, rounded: pd.DataFrame, *, top: int) -> pd.DataFrame:
    """What a coarser number format does to the flags; one row per set and reading.

    Both as of ``SetStudy.scores`` on the same answers. Columns: set, reading, rho (Spearman over
    blocks), overlap (share of the ``top`` blocks in common).
    """
    rows = []
    for (name, reading), own in scores.groupby(["set", "reading"], sort=False):
        other = rounded[(rounded.set == name) & (rounded.reading == reading)]
        one, two = _wide(own)[:1], _wide(other)[:1]
        shares, _ = _compared(one, two, top)
        rows.append((name, reading, rank_correlation(one[0], two[0]).rho, shares[0]))
    return pd.DataFrame(rows, columns=["set", "reading", "rho", "overlap"])


def _wide(part: pd.DataFrame) -> np.ndarray:
    """(1 + n_shuffles, n_blocks): the true labels first."""
    return part.pivot(index="draw", columns="block", values="score").sort_index().to_numpy()


def _compared(others: np.ndarray, own: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray]:
    """Shares in common and lifts of each draw, (n_draws,) each."""
    one, two = (np.argsort(-s, axis=1, kind="stable")[:, :top] for s in (others, own))
    shares = (one[:, :, None] == two[:, None, :]).sum((1, 2)) / top
    lifts = np.take_along_axis(own, one, axis=1).mean(1) / own.mean(1)
    return shares, lifts
