"""Profiles over blocks of all members: their places and shapes in relative depth."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from avss_utils.chapters.architectures.effects import BEYOND, values_of
from avss_utils.chapters.architectures.measures import PLACES, SCORES, places

# what a peak is taken of -> its group
PEAKS = {"true labels": "value", BEYOND: "excess"}


def peak_shares(rows: pd.DataFrame, *, n_permutations: int, seed: int) -> pd.DataFrame:
    """Do peaks lie elsewhere in other architectures? One row per score, place and peak.

    Columns: score, place, peak (with "true labels"; or "beyond shuffled", the distance from the
    mean with labels at random, whose place can depend on the architecture by itself), those of
    ``between_share``, and beyond: the share of members whose peak is where fewer than a twentieth
    of those with shuffled labels are.
    """
    found = []
    for score in SCORES:
        for place in PLACES:
            name = f"{score} {place}"
            beyond = (values_of(rows, name, "p").value < 0.05).mean()
            for peak, group in PEAKS.items():
                rng = np.random.default_rng(seed)
                own = values_of(rows, name, group)
                share = between_share(own, n_permutations=n_permutations, rng=rng)
                names = {"score": score, "place": place, "peak": peak}
                found.append({**names, **share, "beyond": beyond})
    return pd.DataFrame(found)


def between_share(
    values: pd.DataFrame, *, n_permutations: int, rng: np.random.Generator
) -> dict[str, float]:
    """Do architectures differ by more than seeds do? share, p, between and within (deviations).

    ``values``: architecture, seed, value, as many seeds each. ``share``: of the variance, between
    architectures (the intraclass correlation of one-way analysis of variance, cut at 0); ``p``: of
    its F among values dealt out to architectures at random. NaN with one seed.
    """
    wide = values.pivot(index="architecture", columns="seed", values="value").dropna()
    x, k = wide.to_numpy(), wide.shape[1]
    if k < 2 or len(x) < 2:
        return dict.fromkeys(("share", "p", "between", "within"), np.nan)
    drawn = rng.permuted(np.tile(x.ravel(), (n_permutations, 1)), axis=1).reshape(-1, *x.shape)
    draws = np.concatenate([x[None], drawn])
    between = k * draws.mean(-1).var(-1, ddof=1)  # mean squares, (1 + n_permutations,) each
    within = draws.var(-1, ddof=1).mean(-1)
    nothing = np.where(between > 0, np.inf, 0.0)
    f = np.divide(between, within, out=nothing, where=within > 0)
    variance = max(0.0, (between[0] - within[0]) / k)
    total = variance + within[0]
    return {
        "share": variance / total if total > 0 else 0.0,
        "p": (f >= f[0]).mean(),
        "between": variance**0.5,
        "within": within[0] ** 0.5,
    }


def profile_places(rows: pd.DataFrame, measure: str, group: str = "") -> pd.DataFrame:
    """Where a profile over blocks has its centre and its highest block, by member.

    Columns: architecture, seed, place, value (relative depth). Blocks below 0, whose absence helps,
    count as 0.
    """
    own = rows[(rows.measure == measure) & (rows.group == group)]
    found = []
    for (name, seed), part in own.groupby(["architecture", "seed"], sort=False):
        profile = np.maximum(part.sort_values("at").value.to_numpy(float), 0)[None]
        found += [(name, seed, place, x[0]) for place, x in places(profile).items()]
    return pd.DataFrame(found, columns=["architecture", "seed", "place", "value"])


def mean_profile(rows: pd.DataFrame, measure: str, group: str, names: Sequence[str]) -> np.ndarray:
    """Mean over members of a profile over blocks as multiples of an even one, (n_blocks,).

    ``names``: architectures of one depth. Blocks below 0 count as 0; a member whose profile has no
    mass is left out, and NaN stands where none has any.
    """
    own = rows[(rows.measure == measure) & (rows.group == group) & rows.architecture.isin(names)]
    wide = own.pivot(index=["architecture", "seed"], columns="at", values="value")
    profiles = np.maximum(wide.to_numpy(float), 0)
    mass = profiles.mean(1, keepdims=True)
    some = mass[:, 0] > 0
    if not some.any():
        return np.full(profiles.shape[1], np.nan)
    return (profiles[some] / mass[some]).mean(0)
