"""Two tables of the same rows: how far apart their numbers are, in units of what is allowed.

The tolerances are declared here, each with its reason, and were so before a record was compared.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from pandas.api.types import is_float_dtype, is_numeric_dtype


@dataclass(frozen=True)
class Tolerance:
    """A number may differ by ``absolute`` + ``relative`` x the larger of the two.

    ``tokens``: the column of which the square root multiplies ``absolute``; ``share``: of the
    cells, how many may differ by more, one at least.
    """

    absolute: float = 0.0
    relative: float = 0.0
    tokens: str = ""
    share: float = 0.0


TOLERANCES = {
    "EXACT": Tolerance(),
    # Tables hold nine digits, of which a formula loses some.
    "WRITTEN": Tolerance(1e-9, 1e-6),
    # Sums in float32 in another order: 2^-24 an operation, some thousand of them one after another.
    "FLOAT32": Tolerance(0.0, 1e-3),
    # Nats, and ratios less one: differences of such numbers of size one.
    "DIFFERENCE": Tolerance(1e-3, 1e-3),
    # Entries below 1e-5: one that rounding (2^-24 x a sum of size 16 = 1e-6) brings to the other
    # side, one in ten of them, and three where they are few.
    "COUNT": Tolerance(3.0, 0.1),
    # Shares of entries below a threshold that follows the scale: one in fifty on the other side.
    "COUNTED": Tolerance(2e-3, 0.02),
    # Ranks, shares of permutations, areas under curves: near-ties that fall the other way.
    "RANKS": Tolerance(0.02),
    # bfloat16 has eight bits: logits up to 32 are 1/8 apart, and a log-probability is a difference
    # of two of them. Roundings of the tokens of a sum are independent.
    "BFLOAT16": Tolerance(0.25, tokens="n_tokens"),
    # The same of a short answer, of 16 tokens at most.
    "NATS": Tolerance(1.0),
    # The softmax of two such sums: a nat at most, of which p (1 - p) <= 1/4 reaches p.
    "PROBABILITY": Tolerance(0.25),
    # A choice falls the other way where the two are less than a nat apart: one in ten.
    "DECISION": Tolerance(0.0, 1e-6, share=0.1),
    # Measures of a question, either of these two.
    "JUDGED": Tolerance(0.25, share=0.1),
    # Shares of right choices, and bits a byte, in another number format: half of those fall either
    # way.
    "OTHER_FORMAT": Tolerance(0.05),
    # Shares written as letters, of 676 levels.
    "CELL": Tolerance(1e-3),
}


@dataclass(frozen=True)
class Finding:
    """What one comparison found: ``n`` cells, their ``largest`` difference, the ``allowed`` one."""

    what: str
    n: int
    largest: float = 0.0
    allowed: float = 0.0

    @property
    def agrees(self) -> bool:
        """Whether something was compared, and nothing differs by more than is allowed."""
        return self.n > 0 and bool(self.largest <= self.allowed)

    @property
    def excess(self) -> float:
        """The difference in units of what is allowed."""
        return self.largest / max(self.allowed, 1e-300)


@dataclass(frozen=True)
class Comparison:
    """How a table is held against the same rows computed again.

    ``by``: columns that name a row; ``numbers``: tolerance of columns of floats, other columns must
    be equal; ``but``: those with a tolerance of their own, None for what is not compared;
    ``prepare``: applied to both tables before; ``whole``: the record may have no further rows.
    """

    by: str
    numbers: str = "FLOAT32"
    but: dict[str, str | None] = field(default_factory=dict)
    prepare: Callable[[pd.DataFrame], pd.DataFrame] = pd.DataFrame.copy
    whole: bool = False

    def findings(self, recorded: pd.DataFrame, again: pd.DataFrame) -> list[Finding]:
        """A finding a column, and one of rows that the record lacks or has twice."""
        recorded, again = (self.prepare(t).reset_index(drop=True) for t in (recorded, again))
        keys = self.by.split()
        if lacking := [name for name in again if name not in recorded]:
            return [Finding(f"column {' '.join(lacking)}", 1, np.inf)]
        for table in (recorded, again):
            table[keys] = table[keys].astype(str)
        how = "outer" if self.whole else "left"
        both = again.merge(recorded, on=keys, how=how, suffixes=("", "|r"), indicator="|in")
        alone = (both["|in"] != "both") | both.duplicated(keys)
        found = [Finding("rows", len(both), float(alone.sum()))]
        for name in again.columns.difference(keys, sort=False):
            default = self.numbers if is_float_dtype(again[name]) else "EXACT"
            if tolerance := self.but.get(name, default):
                found.append(_column(name, both[both["|in"] == "both"], TOLERANCES[tolerance]))
        return found


def _column(name: str, both: pd.DataFrame, tolerance: Tolerance) -> Finding:
    """The cell that differs most beside what is allowed, or the share of those that do by more."""
    one, two, allowed = both[f"{name}|r"], both[name], np.zeros(len(both))
    if is_numeric_dtype(one) and is_numeric_dtype(two):
        one, two = one.to_numpy(float), two.to_numpy(float)
        gap = np.where((one == two) | (np.isnan(one) & np.isnan(two)), 0.0, np.abs(one - two))
        gap = np.nan_to_num(gap, nan=np.inf)
        scale = np.sqrt(both[tolerance.tokens]) if tolerance.tokens else 1.0
        size = np.nan_to_num(np.maximum(np.abs(one), np.abs(two)))
        allowed = allowed + tolerance.absolute * scale + tolerance.relative * size
    else:
        gap = (one.astype(str) != two.astype(str)).to_numpy(float)
    allowed, n = np.asarray(allowed), len(gap)
    if tolerance.share or not n:
        share = float((gap > allowed).mean()) if n else 0.0
        return Finding(name, n, share, max(tolerance.share, 1 / max(n, 1)))
    at = int(np.argmax(np.where(gap > 0, gap / np.maximum(allowed, 1e-300), 0.0)))
    return Finding(name, n, float(gap[at]), float(allowed[at]))
