"""What depth, width and single choices do to an outcome: regressions that mind collinearity."""

from collections.abc import Iterable

import numpy as np
import pandas as pd

from avss_utils.architectures.family import GPT2, OLMO2, Architecture

DEPTH, WIDTH, SIZE = "log2 depth", "log2 width", "log2 parameters"
# what a row of the family may differ in beside its size, each 0 where it is as usual
FACTORS = ("log2 width of a head", "log2 heads a key", "untied", "window", "post-norm", "gpt2")
USUAL_HEAD = 64
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
