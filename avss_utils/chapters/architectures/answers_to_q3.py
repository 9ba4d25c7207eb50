"""Outcomes out of the rows of all members: what regressions, tables and figures are made of."""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from avss_utils.chapters.architectures import effects
from avss_utils.chapters.architectures.facts import HELD_OUT, KNOWN, RARE
from avss_utils.chapters.architectures.family import Architecture
from avss_utils.chapters.architectures.peaks import CENTRE, EAVSS, PLACES, SCORES, places
from avss_utils.stats.resampling import Estimate
from avss_utils.stats.retention import pick

BEYOND = "beyond shuffled"
PRIMARY = f"hallucination, {HELD_OUT}"
# name -> (measure, group) in the rows of ``study.member_rows``
OUTCOMES: dict[str, tuple[str, str]] = {
    PRIMARY: ("hallucination", HELD_OUT),
    f"hallucination, {RARE}": ("hallucination", RARE),
    f"hallucination, {KNOWN}": ("hallucination", KNOWN),
    f"abstention, {KNOWN}": ("abstention", KNOWN),
    f"recall, {KNOWN}": ("recall", KNOWN),
    f"recall, {RARE}": ("recall", RARE),
    "bits per byte": ("bits per byte", "stories"),
    f"{EAVSS}, {CENTRE}, {BEYOND}": (f"{EAVSS} {CENTRE}", "excess"),
    "removable, bits per byte": ("removable, greedy", "bits per byte"),
    "removable, recall": ("removable, greedy", "recall"),
}
# what a peak is taken of -> its group
PEAKS = {"true labels": "value", BEYOND: "excess"}


def outcome(rows: pd.DataFrame, name: str) -> pd.DataFrame:
    """One of OUTCOMES by member: architecture, seed, value; a mean over all exposures by n.

    ``rows``: of one taught share, or controls would be averaged with what they control. Members
    without a value, such as what pruning keeps of no recall, are left out.
    """
    measure, group = OUTCOMES[name]
    return values_of(rows, measure, group)


def values_of(rows: pd.DataFrame, measure: str, group: str) -> pd.DataFrame:
    """Any measure and group by member, likewise."""
    own = rows[(rows.measure == measure) & (rows.group == group)].dropna(subset="value")
    weighted = own.assign(value=own.value * own.n)
    sums = weighted.groupby(["architecture", "seed"], sort=False)[["value", "n"]].sum()
    return (sums.value / sums.n).rename("value").reset_index()


def over_seeds(values: pd.DataFrame, by: Sequence[str] = ("architecture",)) -> pd.DataFrame:
    """Mean and range over seeds: the columns ``by``, then value, low, high, n (members)."""
    found = values.groupby(list(by), sort=False).value.agg(["mean", "min", "max", "size"])
    return found.set_axis(["value", "low", "high", "n"], axis=1).reset_index()


def slope_table(
    rows: pd.DataFrame, family: Sequence[Architecture], names: Iterable[str], size: str
) -> pd.DataFrame:
    """``effects.slopes`` of several OUTCOMES, with a column outcome before.

    An outcome that some architecture has no value of is left out, for its slopes would be those of
    another family.
    """
    parts = []
    for name in names:
        values = outcome(rows, name)
        if set(values.architecture) == {row.name for row in family}:
            parts.append(effects.slopes(values, family, size).assign(outcome=name))
    table = pd.concat(parts, ignore_index=True)
    return table[["outcome", *table.columns.drop("outcome")]]


def peak_shares(rows: pd.DataFrame, *, n_permutations: int, seed: int) -> pd.DataFrame:
    """Do peaks lie elsewhere in other architectures? A row a score, place and peak.

    Columns: score, place, peak (with "true labels"; or "beyond shuffled", the distance from the
    mean with labels at random, whose place can depend on the architecture by itself), those of
    ``effects.between_share``, and beyond: the share of members whose peak is where fewer than a
    twentieth of those with shuffled labels are.
    """
    found = []
    for score in SCORES:
        for place in PLACES:
            name = f"{score} {place}"
            beyond = (values_of(rows, name, "p").value < 0.05).mean()
            for peak, group in PEAKS.items():
                own = effects.between_share(
                    values_of(rows, name, group),
                    n_permutations=n_permutations,
                    rng=np.random.default_rng(seed),
                )
                names = {"score": score, "place": place, "peak": peak}
                found.append({**names, **own, "beyond": beyond})
    return pd.DataFrame(found)


def profile_places(rows: pd.DataFrame, measure: str, group: str = "") -> pd.DataFrame:
    """Where a profile over blocks has its centre and its highest block, by member, and the mean.

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


def grid(values: pd.DataFrame, family: Sequence[Architecture]) -> pd.DataFrame:
    """``over_seeds`` of the ``effects.plain`` cells, narrow ones first and then by depth.

    With columns arm ("width ..."), depth and parameters (of the blocks).
    """
    rows = sorted(effects.plain(family), key=lambda row: (row.width, row.depth))
    table = pd.DataFrame(
        [(r.name, f"width {r.width}", r.depth, r.parameters) for r in rows],
        columns=["architecture", "arm", "depth", "parameters"],
    )
    return table.merge(over_seeds(values), on="architecture")


def slope_of(slopes: pd.DataFrame, term: str, outcome: str = PRIMARY) -> Estimate | None:
    """One slope of a ``slope_table`` with its interval, or None where it was not measured."""
    own = slopes[(slopes.outcome == outcome) & (slopes.term == term)]
    return pick(own) if len(own) else None


def direction(slope: Estimate) -> str:
    """rises, falls or undecided: what a slope's interval says."""
    return "rises" if slope.low > 0 else "falls" if slope.high < 0 else "undecided"
