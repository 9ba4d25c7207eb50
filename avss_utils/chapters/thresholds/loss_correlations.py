"""Does a statistic tell which block matters? Profiles over blocks against leave-one-out losses."""

import numpy as np
import pandas as pd

from avss_utils.measure.sensitivity import Sensitivity
from avss_utils.stats.block_profiles import (
    autoregressive_p,
    correlation_interval,
    partial_rank,
    rank_correlation,
)


def loss_table(sensitivity: Sensitivity) -> pd.DataFrame:
    """Tidy leave-one-out losses, one row per block and text: block, text, nll, n_scored.

    Block -1 stands for the whole model.
    """
    losses = sensitivity.losses
    n_sets, n_rows = losses.nll.shape
    return pd.DataFrame(
        {
            "block": np.repeat(np.arange(n_sets) - 1, n_rows),
            "text": np.tile(np.arange(n_rows), n_sets),
            "nll": losses.nll.ravel(),
            "n_scored": np.tile(losses.n_scored, n_sets),
        }
    )


def rises(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """From ``loss_table``: nats that each text loses to each block's absence, (n_blocks, n_texts).

    And the texts' scored tokens, (n_texts,), which weigh them in a mean.
    """
    wide = table.pivot(index="block", columns="text", values="nll").to_numpy()
    n_scored = table[table.block == -1].n_scored.to_numpy()
    return wide[1:] - wide[0], n_scored


def correlations(scores: pd.DataFrame, losses: pd.DataFrame, *, seed: int) -> pd.DataFrame:
    """Each criterion's rank correlation with the loss that removing the block alone adds.

    Columns: criterion, value, low, high (texts and stretches of depth drawn anew), n (blocks),
    p_shift (circular shifts of the profile), p_ar (autoregressive profiles), partial (given the
    block's number), p_partial, depth (the score's own correlation with the block's number). Without
    leave-one-out itself; NaN for a score of fewer than three values.
    """
    rise, n_scored = rises(losses)
    mean = rise.sum(1) / n_scored.sum()
    depth, rows = np.arange(len(rise)), []
    for criterion, own in scores.groupby("criterion", sort=False):
        score = own.score.to_numpy(float)
        if criterion == "leave-one-out":
            continue
        if len(np.unique(score)) < 3:  # too few values to rank the blocks by
            rows.append((criterion, np.nan, -np.inf, np.inf, len(score), *[np.nan] * 5))
            continue
        estimate = correlation_interval(score, rise, rng=np.random.default_rng(seed))
        partial = partial_rank(score, mean, depth)
        rows.append(
            (
                criterion,
                *(estimate.value, estimate.low, estimate.high, estimate.n),
                rank_correlation(score, mean).p_value,
                autoregressive_p(score, mean, rng=np.random.default_rng(seed)),
                *(partial.rho, partial.p_value),
                rank_correlation(score, depth).rho,
            )
        )
    names = ["criterion", "value", "low", "high", "n", "p_shift", "p_ar"]
    return pd.DataFrame(rows, columns=[*names, "partial", "p_partial", "depth"])


def pair_gap(pairs: pd.DataFrame, path: pd.DataFrame) -> dict[str, object]:
    """Greedy's first two blocks beside the best two of all pairs, on the pairs' own texts."""
    best = pairs.loc[pairs.nll.idxmin()]
    chosen = sorted(path[path.chosen].block.to_list()[:2])
    own = pairs[(pairs["first"] == chosen[0]) & (pairs["second"] == chosen[1])].iloc[0]
    return {
        "best": (int(best["first"]), int(best["second"])),
        "best_nll": float(best.nll),
        "greedy": tuple(chosen),
        "greedy_nll": float(own.nll),
        "greedy_rank": int((pairs.nll < own.nll).sum()) + 1,
        "n_pairs": len(pairs),
    }
