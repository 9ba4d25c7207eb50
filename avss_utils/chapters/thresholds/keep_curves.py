"""How many blocks can go by each criterion, and what choosing them costs."""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd
from scipy.optimize import isotonic_regression  # scikit-learn's, in a twentieth of the time
from torch import nn

from avss_utils.data.token_rows import Scored
from avss_utils.measure.activations import collect_block_stats
from avss_utils.measure.drop_losses import drop_losses
from avss_utils.measure.sensitivity import Sensitivity
from avss_utils.models.plan import as_text
from avss_utils.scores.arms import Calibration
from avss_utils.stats.outcomes import OutcomeTable
from avss_utils.stats.resampling import limits, resample_counts
from avss_utils.stats.retention import BASELINE, plan_name, text_estimates


def development_loss(
    model: nn.Module,
    rows: Mapping[str, Sequence[Scored]],
    arm: tuple[str, Sequence[int]],
    *,
    batch_tokens: int,
) -> pd.DataFrame:
    """Nats a token of one (arm, drop) on development texts, one row: arm, drop, every set, mean."""
    name, drop = arm
    by_set = {
        own: drop_losses(model, texts, [drop], batch_tokens=batch_tokens).mean[0]
        for own, texts in rows.items()
    }
    row = {"arm": name, "drop": as_text(drop), **by_set, "mean": np.mean(list(by_set.values()))}
    return pd.DataFrame([row])


def effort_table(
    collect: Calibration, sensitivity: Sensitivity, score_answers: Callable
) -> pd.DataFrame:
    """``Sensitivity.effort``, and two passes taken once more: the one that every statistic comes
    from, and ``score_answers``, which reads its questions twice, for the scale and for the counts.
    """
    rows = []
    statistics = partial(collect_block_stats, collect.model, collect.batches, eps=collect.eps)
    for name, collected, passes in (("statistics", statistics, 1.0), ("eavss", score_answers, 2.0)):
        start = time.perf_counter()
        collected()
        rows.append((name, time.perf_counter() - start, passes))
    own = pd.DataFrame(rows, columns=["criterion", "seconds", "passes"])
    return pd.concat([own, sensitivity.effort()], ignore_index=True)


def guide(
    plans: pd.DataFrame,
    kept: pd.DataFrame,
    bits: pd.DataFrame,
    effort: pd.DataFrame,
    within: pd.DataFrame,
) -> pd.DataFrame:
    """The practitioner's table: one row per arm, best bits per byte first.

    ``kept``: raw retention by set; ``bits``: bits per byte by plan; ``effort``: what each search
    and the one pass of statistics ("statistics") cost, n/a where that was not timed;
    ``within``: agreement of rankings, averaged over calibration sets.
    """
    raw = kept[kept.measure == "raw retention"].pivot(index="arm", columns="set", values="value")
    table = plans[["arm", "drop"]].join(raw, on="arm")
    table["bits per byte"] = table["drop"].map(plan_name).map(bits.set_index("arm").value)
    costs = effort.set_index("criterion")
    name = table.arm.str.removesuffix("-protected")
    name = name.mask(name.str.startswith("eavss"), "eavss")
    statistic = ~name.isin(costs.index) & ~name.str.startswith(("tail", "random", "weight"))
    paid = name.where(~statistic, "statistics")
    table["seconds"] = paid.map(costs.seconds).where(statistic | paid.isin(costs.index), 0.0)
    table["passes"] = paid.map(costs.passes).where(~statistic, 1.0).fillna(0.0)
    table["overlap beyond chance"] = name.map(within.groupby("criterion").overlap_excess.mean())
    return table.sort_values("bits per byte", kind="stable", ignore_index=True)


def keep_curve(
    plans: pd.DataFrame, kept: pd.DataFrame, texts: pd.DataFrame, *, text_set: str, seed: int
) -> pd.DataFrame:
    """What one arm keeps by number of removed blocks: n_dropped, measure, value, low, high, n.

    ``plans``: of that arm alone, as of ``curve_plans``; ``kept``: its ``retention_rows``, whose raw
    retention is a measure by the set's name; ``texts``: one row per window, from which perplexity
    and bits retention on ``text_set`` come.
    """
    raw = kept[kept.measure == "raw retention"]
    raw = raw.assign(measure=raw["set"]).sort_values("n_dropped", kind="stable")
    n_dropped = dict(zip(plans["drop"].map(plan_name), plans.n_dropped, strict=True))
    judged = texts.arm.isin([BASELINE, *n_dropped]) & (texts.text_set == text_set)
    found = text_estimates(texts[judged], seed=seed)
    found = found[(found.arm != BASELINE) & found.measure.isin(["perplexity", "bits retention"])]
    found = found.assign(n_dropped=found.arm.map(n_dropped)).sort_values(["n_dropped", "measure"])
    names = ["n_dropped", "measure", "value", "low", "high", "n"]
    return pd.concat([raw, found], ignore_index=True)[names]


def shares_kept(
    plans: pd.DataFrame,
    outcomes: OutcomeTable,
    *,
    n_blocks: int,
    kept: float,
    seed: int,
    n_resamples: int = 500,
) -> pd.DataFrame:
    """The largest share of blocks that can go before the curve of retention falls below ``kept``.

    The curve is the isotonic one (never rising) through all measured shares, from 1 at none
    removed, so that one bad plan on the way does not decide; its last measured share that stays at
    ``kept`` counts. Columns: arm, set, measure (raw, corrected for chance), value, low, high
    (questions drawn anew), n, and open: "yes" where the last measured share is the value.
    """
    rows = []
    for arm, curve in plans.groupby("arm", sort=False):
        curve = curve.sort_values("n_dropped")
        shares = np.array([0, *curve.n_dropped]) / n_blocks
        names = [BASELINE, *map(plan_name, curve["drop"])]
        for of in outcomes.sets():
            right = np.stack([outcomes.of(name, of)[0] for name in names])
            n, chance = right.shape[1], outcomes.chance(of)
            weights = resample_counts(n, n_resamples, np.random.default_rng(seed)) / n
            for measure, level in (("raw", 0.0), ("corrected", chance)):
                means = weights @ (right - level).T
                found = np.array([last_kept(own, shares, kept) for own in means])
                is_open = "yes" if found[0] >= shares[-1] else ""
                rows.append((arm, of, measure, found[0], *limits(found[1:]), n, is_open))
    names = ["arm", "set", "measure", "value", "low", "high", "n", "open"]
    return pd.DataFrame(rows, columns=names)


def last_kept(means: np.ndarray, shares: np.ndarray, kept: float) -> float:
    """The last of ``shares`` at which the isotonic curve of means / means[0] is at least ``kept``.

    0 where the first mean is not above 0, of which nothing can be kept.
    """
    if means[0] <= 0:
        return 0.0
    curve = isotonic_regression(means / means[0], increasing=False).x
    stays = np.flatnonzero(curve >= kept - 1e-12)
    return float(shares[stays[-1]]) if len(stays) else 0.0
