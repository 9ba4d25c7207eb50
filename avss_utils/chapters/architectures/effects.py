"""What depth, width and single choices do to an outcome: regressions that mind collinearity."""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from avss_utils.chapters.architectures.family import GPT2, OLMO2, Architecture
from avss_utils.errors import UsageError
from avss_utils.stats.resampling import LEVEL, Estimate

DEPTH, WIDTH, SIZE = "log2 depth", "log2 width", "log2 parameters"
# what a row of the family may differ in beside its size
FACTORS = ("log2 width of a head", "log2 heads a key", "untied", "window", "post-norm", "gpt2")
MOST_INFLATION, WORST_CONDITION = 10.0, 30.0


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


def inflation(terms: pd.DataFrame) -> pd.Series:
    """Variance inflation factor of each column, 1 and above; infinite where others determine it.

    1 / (1 - R^2) of the column on the others (Belsley, Kuh and Welsch 1980), constant included.
    """
    from statsmodels.stats.outliers_influence import variance_inflation_factor
    from statsmodels.tools import add_constant

    columns = add_constant(terms, has_constant="add").to_numpy(float)
    with np.errstate(divide="ignore"):
        found = [variance_inflation_factor(columns, i + 1) for i in range(terms.shape[1])]
    return pd.Series(found, index=terms.columns)


def condition_number(terms: pd.DataFrame) -> float:
    """Largest over smallest singular value of the columns, centred and of one length."""
    columns = terms.to_numpy(float)
    columns = columns - columns.mean(0)
    length = np.linalg.norm(columns, axis=0)
    if (length < 1e-12).any():
        return np.inf
    values = np.linalg.svd(columns / length, compute_uv=False)
    return float(values[0] / values[-1]) if values[-1] > 1e-12 else np.inf


def slopes(values: pd.DataFrame, family: Sequence[Architecture], size: str) -> pd.DataFrame:
    """Slopes of an outcome on depth, on ``size`` (WIDTH or SIZE) and on every factor that varies.

    ``values``: architecture, value, a row a seed. The seeds of one architecture are a cluster that
    shares all but its initial weights, so their mean is one observation of an ordinary least
    squares regression and intervals (95 %, Student's t) count architectures, not runs. Depth beside
    WIDTH is depth at a fixed width, beside SIZE at a fixed number of parameters: all three are
    collinear. Columns: term, value, low, high, p, inflation, n (architectures); limits are infinite
    where no architecture is left over to tell them. Raises UsageError for a design that is
    collinear or has fewer architectures than terms.
    """
    from statsmodels.api import OLS, add_constant  # a second to import

    means = values.groupby("architecture", sort=False).value.mean()
    terms, spread = design_of([row for row in family if row.name in means.index], size)
    means = means.loc[terms.index]
    fit = OLS(means.to_numpy(), add_constant(terms.to_numpy(), has_constant="add")).fit()
    free = fit.df_resid >= 1
    bounds = fit.conf_int(1 - LEVEL)[1:] if free else [(-np.inf, np.inf)] * terms.shape[1]
    p_values = fit.pvalues[1:] if free else [1.0] * terms.shape[1]
    rows = [
        (term, value, *bound, p, inflated, len(means))
        for term, value, bound, p, inflated in zip(
            terms.columns, fit.params[1:], bounds, p_values, spread, strict=True
        )
    ]
    names = ["term", "value", "low", "high", "p", "inflation", "n"]
    return pd.DataFrame(rows, columns=names)


def design_of(family: Sequence[Architecture], size: str) -> tuple[pd.DataFrame, pd.Series]:
    """The terms of ``slopes`` by architecture, and the ``inflation`` of each.

    Raises UsageError where they cannot be told apart.
    """
    table = design(family).set_index("architecture")
    terms = table[[DEPTH, size, *(f for f in FACTORS if table[f].nunique() > 1)]]
    if len(terms) <= terms.shape[1]:
        raise UsageError(
            f"{len(terms)} architectures cannot tell {terms.shape[1]} terms apart: train more of "
            f"them, or fewer that differ in {', '.join(terms.columns)}"
        )
    condition = condition_number(terms)
    spread = inflation(terms) if condition < np.inf else pd.Series(np.inf, terms.columns)
    if condition > WORST_CONDITION or spread.max() > MOST_INFLATION:
        raise UsageError(
            f"{spread.idxmax()} cannot be told apart from the other terms in this family (variance "
            f"inflation {spread.max():.3g}, condition number {condition:.3g}): add architectures "
            "off the diagonal"
        )
    return terms, spread


def differences(values: pd.DataFrame, centre: str) -> pd.DataFrame:
    """Every architecture less ``centre``, paired by seed: arm, value, low, high, n (seeds).

    ``values``: architecture, seed, value. The 95 % interval (Student's t) is over initial weights
    alone, infinite with one seed.
    """
    wide = values.pivot(index="seed", columns="architecture", values="value")
    if centre not in wide:
        raise UsageError(f"{centre!r} is not among the architectures: {', '.join(wide)}")
    rows = []
    for name in values.architecture.unique():
        if name != centre:
            e = _mean_over_seeds((wide[name] - wide[centre]).dropna().to_numpy())
            rows.append((name, e.value, e.low, e.high, e.n))
    return pd.DataFrame(rows, columns=["arm", "value", "low", "high", "n"])


def _mean_over_seeds(x: np.ndarray) -> Estimate:
    from scipy.stats import t  # half a second, and not every command needs it

    if len(x) < 2:
        return Estimate(float(x.mean()), -np.inf, np.inf, len(x))
    reach = t.ppf((1 + LEVEL) / 2, len(x) - 1) * x.std(ddof=1) / len(x) ** 0.5
    return Estimate(float(x.mean()), float(x.mean() - reach), float(x.mean() + reach), len(x))


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
    ratios = [_mean_squares(own) for own in (x, *drawn)]
    f = np.array([b / w if w > 0 else np.inf if b > 0 else 0.0 for b, w in ratios])
    between, within = ratios[0]
    variance = max(0.0, (between - within) / k)
    total = variance + within
    return {
        "share": variance / total if total > 0 else 0.0,
        "p": (1 + (f[1:] >= f[0]).sum()) / len(f),
        "between": variance**0.5,
        "within": within**0.5,
    }


def _mean_squares(x: np.ndarray) -> tuple[float, float]:
    """Between and within the rows of (n_groups, n_each)."""
    n, k = x.shape
    between = k * ((x.mean(1) - x.mean()) ** 2).sum() / (n - 1)
    within = ((x - x.mean(1, keepdims=True)) ** 2).sum() / (n * (k - 1))
    return between, within
