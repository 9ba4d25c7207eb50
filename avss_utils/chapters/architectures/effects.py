"""What depth, width and single choices do to an outcome: regressions that mind collinearity.

Outcomes are means out of the rows of all members (``members.member_rows``).
"""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from avss_utils.chapters.architectures.facts import HELD_OUT, KNOWN, RARE
from avss_utils.chapters.architectures.family import GPT2, OLMO2, Architecture
from avss_utils.chapters.architectures.measures import CENTRE, EAVSS
from avss_utils.errors import UsageError
from avss_utils.stats.resampling import LEVEL, Estimate
from avss_utils.stats.retention import pick

DEPTH, WIDTH, SIZE = "log2 depth", "log2 width", "log2 parameters"
# what a row of the family may differ in beside its size
FACTORS = ("log2 width of a head", "log2 heads a key", "untied", "window", "post-norm", "gpt2")
MOST_INFLATION = 10.0
BEYOND = "beyond shuffled"
COVARIATE = "covariate"
PRIMARY, RECALL = f"hallucination, {HELD_OUT}", f"recall, {KNOWN}"
# name -> (measure, group) in the rows of all members
OUTCOMES: dict[str, tuple[str, str]] = {
    PRIMARY: ("hallucination", HELD_OUT),
    f"hallucination, {RARE}": ("hallucination", RARE),
    f"hallucination, {KNOWN}": ("hallucination", KNOWN),
    f"abstention, {KNOWN}": ("abstention", KNOWN),
    RECALL: ("recall", KNOWN),
    f"recall, {RARE}": ("recall", RARE),
    "bits per byte": ("bits per byte", "stories"),
    f"{EAVSS}, {CENTRE}, {BEYOND}": (f"{EAVSS} {CENTRE}", "excess"),
    "removable, bits per byte": ("removable, greedy", "bits per byte"),
    "removable, recall": ("removable, greedy", "recall"),
}


def outcome(rows: pd.DataFrame, name: str) -> pd.DataFrame:
    """One of OUTCOMES by member: architecture, seed, value; a mean over all exposures by n.

    ``rows``: of one taught share, or controls would be averaged with what they control. Members
    without a value, such as what pruning keeps of no recall, are left out.
    """
    return values_of(rows, *OUTCOMES[name])


def values_of(rows: pd.DataFrame, measure: str, group: str) -> pd.DataFrame:
    """Any measure and group by member, likewise."""
    own = rows[(rows.measure == measure) & (rows.group == group)].dropna(subset="value")
    weighted = own.assign(value=own.value * own.n)
    sums = weighted.groupby(["architecture", "seed"], sort=False)[["value", "n"]].sum()
    return (sums.value / sums.n).rename("value").reset_index()


def over_seeds(values: pd.DataFrame) -> pd.DataFrame:
    """Mean and range over seeds: architecture, value, low, high, n (members)."""
    found = values.groupby("architecture", sort=False).value.agg(["mean", "min", "max", "size"])
    return found.set_axis(["value", "low", "high", "n"], axis=1).reset_index()


def design(family: Iterable[Architecture]) -> pd.DataFrame:
    """What the regressions know of each architecture: architecture, DEPTH, WIDTH, SIZE, FACTORS.

    Logarithms of base 2, so that a slope is the change when something doubles; SIZE is of the
    blocks' parameters, and falls back on 12 depth width^2 where a row does not say it.
    """
    rows = [
        (
            row.name,
            np.log2(row.depth),
            np.log2(row.width),
            np.log2(row.parameters or 12 * row.depth * row.width**2),
            np.log2(row.width / row.heads),
            np.log2(row.groups),
            float(not row.tied),
            float(row.window > 0),
            float(row.kind == OLMO2),
            float(row.kind == GPT2),
        )
        for row in family
    ]
    return pd.DataFrame(rows, columns=["architecture", DEPTH, WIDTH, SIZE, *FACTORS])


def plain(family: Sequence[Architecture]) -> list[Architecture]:
    """The cells of the grid: those in which every factor is as in most of the family."""
    table = design(family)[[*FACTORS]]
    usual = (table == table.mode().iloc[0]).all(axis=1)
    return [row for row, is_usual in zip(family, usual, strict=True) if is_usual]


def grid(values: pd.DataFrame, family: Sequence[Architecture]) -> pd.DataFrame:
    """``over_seeds`` of the ``plain`` cells, narrow ones first and then by depth.

    With columns arm ("width ...") and depth.
    """
    rows = sorted(plain(family), key=lambda row: (row.width, row.depth))
    cells = [(row.name, f"width {row.width}", row.depth) for row in rows]
    table = pd.DataFrame(cells, columns=["architecture", "arm", "depth"])
    return table.merge(over_seeds(values), on="architecture")


def inflation(terms: pd.DataFrame) -> pd.Series:
    """Variance inflation factor of each column, 1 and above; infinite where others determine it.

    1 / (1 - R^2) of the column on the others (Belsley, Kuh and Welsch 1980), which is the diagonal
    of the inverse of their correlations.
    """
    related = terms.corr().to_numpy()
    if (terms.nunique() < 2).any() or np.linalg.cond(related) > 1e12:
        return pd.Series(np.inf, terms.columns)
    return pd.Series(np.linalg.inv(related).diagonal(), terms.columns)


def slopes(
    values: pd.DataFrame,
    family: Sequence[Architecture],
    size: str,
    beside: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Slopes of an outcome on depth, on ``size`` (WIDTH or SIZE) and on every factor that varies.

    ``values``: architecture, value, one row per seed. The seeds of one architecture are a
    cluster that shares all but its initial weights, so their mean is one observation of an ordinary
    least squares regression and intervals (95 %, Student's t) count architectures, not runs. Depth
    beside WIDTH is depth at a fixed width, beside SIZE at a fixed number of parameters: all three
    are collinear. ``beside``: another outcome by member, whose mean is a term, COVARIATE.
    Columns: term, value, low, high, p, inflation, n (architectures); limits are
    infinite where no architecture is left over to tell them. Raises UsageError for a design that is
    collinear or has fewer architectures than terms.
    """
    from statsmodels.api import OLS, add_constant  # a second to import

    means = values.groupby("architecture", sort=False).value.mean()
    table = design(row for row in family if row.name in means.index).set_index("architecture")
    terms = table[[DEPTH, size, *(f for f in FACTORS if table[f].nunique() > 1)]]
    if beside is not None:
        known = beside.groupby("architecture").value.mean()
        terms = terms.assign(**{COVARIATE: known.loc[terms.index]})
    if len(terms) <= terms.shape[1]:
        raise UsageError(
            f"{len(terms)} architectures cannot tell {terms.shape[1]} terms apart: train more of "
            f"them, or fewer that differ in {', '.join(terms.columns)}"
        )
    spread = inflation(terms)
    if spread.max() > MOST_INFLATION:
        raise UsageError(
            f"{spread.idxmax()} cannot be told apart from the other terms in this family (variance "
            f"inflation {spread.max():.3g}): add architectures off the diagonal"
        )
    y = means.loc[terms.index].to_numpy()
    fit = OLS(y, add_constant(terms.to_numpy(), has_constant="add")).fit()
    table = pd.DataFrame({"term": terms.columns, "value": fit.params[1:]})
    table[["low", "high"]] = fit.conf_int(1 - LEVEL)[1:] if fit.df_resid else (-np.inf, np.inf)
    p = fit.pvalues[1:] if fit.df_resid else 1.0
    return table.assign(p=p, inflation=spread.to_numpy(), n=len(means))


def slope_table(
    rows: pd.DataFrame, family: Sequence[Architecture], names: Iterable[str], size: str
) -> pd.DataFrame:
    """``slopes`` of several OUTCOMES, with a column outcome before.

    An outcome that some architecture has no value of is left out, for its slopes would be those of
    another family. Raises UsageError where none is left.
    """
    parts, members = {}, {row.name for row in family}
    for name in names:
        values = outcome(rows, name)
        if set(values.architecture) == members:
            parts[name] = slopes(values, family, size)
    if not parts:
        raise UsageError("no outcome has a value of every architecture: train all of the family")
    return pd.concat(parts, names=["outcome"]).reset_index("outcome").reset_index(drop=True)


def slopes_beside(
    rows: pd.DataFrame, family: Sequence[Architecture]
) -> tuple[dict[str, pd.DataFrame], dict[str, str]]:
    """``slope_table`` of all OUTCOMES beside WIDTH and beside SIZE, and why one is refused."""
    found, refused = {}, {}
    for size in (WIDTH, SIZE):
        try:
            found[size] = slope_table(rows, family, OUTCOMES, size)
        except UsageError as error:
            refused[size] = str(error)
    return found, refused


def exploratory(slopes: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """All slopes of ``slopes_beside`` but the primary one, with columns beside (the size) and
    adjusted: p by Holm's method over all of them.
    """
    from statsmodels.stats.multitest import multipletests  # a second to import

    parts = [own.assign(beside=size) for size, own in slopes.items()]
    columns = ["outcome", "term", "beside", "value", "low", "high", "n", "p", "adjusted"]
    table = pd.concat(parts or [pd.DataFrame(columns=columns[:-1])]).dropna(subset="p")
    first = (table.outcome == PRIMARY) & (table.term == DEPTH) & (table.beside == WIDTH)
    table = table[~first]
    adjusted = multipletests(table.p, method="holm")[1] if len(table) else []
    return table.assign(adjusted=adjusted)[columns]


def slope_of(slopes: pd.DataFrame, term: str, outcome: str = PRIMARY) -> Estimate | None:
    """One slope of a ``slope_table`` with its interval, or None where it was not measured."""
    own = slopes[(slopes.outcome == outcome) & (slopes.term == term)]
    return pick(own) if len(own) else None


def direction(slope: Estimate) -> str:
    """rises, falls or undecided: what a slope's interval says."""
    return "rises" if slope.low > 0 else "falls" if slope.high < 0 else "undecided"


def differences(values: pd.DataFrame, centre: str) -> pd.DataFrame:
    """Every architecture less ``centre``, paired by seed: arm, value, low, high, n (seeds).

    ``values``: architecture, seed, value. The 95 % interval (Student's t) is over initial weights
    alone, infinite with one seed.
    """
    from statsmodels.stats.weightstats import DescrStatsW  # a second to import

    wide = values.pivot(index="seed", columns="architecture", values="value")
    if centre not in wide:
        raise UsageError(f"{centre!r} is not among the architectures: {', '.join(wide)}")
    rows = []
    for name in values.architecture.unique():
        gaps = (wide[name] - wide[centre]).dropna().to_numpy()
        several = len(gaps) > 1
        bounds = DescrStatsW(gaps).tconfint_mean(1 - LEVEL) if several else (-np.inf, np.inf)
        rows += [(name, gaps.mean(), *bounds, len(gaps))] * (name != centre)
    return pd.DataFrame(rows, columns=["arm", "value", "low", "high", "n"])
