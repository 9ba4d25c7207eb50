"""Two tables of the same rows: how far apart their numbers are, in units of what is allowed.

The tolerances are declared here, each with its reason, and were so before any record was compared.
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


EXACT = Tolerance()
# Tables hold nine digits, of which a formula loses some.
WRITTEN = Tolerance(1e-9, 1e-6)
# Sums in float32 in another order: 2^-24 an operation, some thousand of them one after another.
FLOAT32 = Tolerance(0.0, 1e-3)
# Nats and ratios less one are differences of such numbers of size one.
DIFFERENCE = Tolerance(1e-3, 1e-3)
# Entries below a threshold: one that rounding (2^-24 x a sum of size 16 = 1e-6) brings to the other
# side of 1e-5, one in ten of them, and three where they are few.
COUNT = Tolerance(3.0, 0.1)
# Shares of entries below a threshold that follows the scale: one in fifty on the other side.
COUNTED = Tolerance(2e-3, 0.02)
# Ranks, shares of permutations, areas under curves: near-ties that fall the other way.
RANKS = Tolerance(0.02)
# bfloat16 has eight bits: logits up to 32 are 1/8 apart, and a log-probability is a difference of
# two of them. Roundings of the tokens of a sum are independent.
BFLOAT16 = Tolerance(0.25, 0.0, tokens="n_tokens")
# The softmax of two such sums: a nat at most, of which p (1 - p) <= 1/4 reaches p.
PROBABILITY = Tolerance(0.25)
# A choice falls the other way where the two are less than a nat apart.
DECISION = Tolerance(0.0, 1e-6, share=0.1)


@dataclass(frozen=True)
class Finding:
    """What one comparison found: ``n`` cells, their ``largest`` difference, the ``allowed`` one."""

    what: str
    n: int
    largest: float = 0.0
    allowed: float = 0.0

    @property
    def agrees(self) -> bool:
        """Whether something was compared and nothing differs by more than is allowed."""
        return self.n > 0 and bool(self.largest <= self.allowed)

    @property
    def excess(self) -> float:
        """The difference in units of what is allowed."""
        if self.largest == 0 and self.n:
            return 0.0
        return self.largest / self.allowed if self.allowed and self.n else np.inf


@dataclass(frozen=True)
class Comparison:
    """How a table is held against the same rows computed again.

    ``on``: columns that name a row; ``numbers``: tolerance of columns of floats, other columns must
    be equal; ``columns``: those with a tolerance of their own, None for what is not compared;
    ``prepare``: applied to both tables before.
    """

    on: str
    numbers: Tolerance = FLOAT32
    columns: dict[str, Tolerance | None] = field(default_factory=dict)
    prepare: Callable[[pd.DataFrame], pd.DataFrame] = lambda table: table

    def findings(self, recorded: pd.DataFrame, again: pd.DataFrame) -> list[Finding]:
        """A finding a column; a row that the record lacks, or has twice, differs."""
        recorded, again = (
            self.prepare(table).reset_index(drop=True) for table in (recorded, again)
        )
        keys = self.on.split()
        lacking = [name for name in again if name not in recorded]
        if lacking or recorded.duplicated(keys).any():
            return [Finding(f"columns {' '.join(lacking)}" if lacking else "rows twice", 1, np.inf)]
        for table in (recorded, again):
            table[keys] = table[keys].astype(str)
        both = again.merge(recorded, on=keys, how="left", suffixes=("", "|r"), indicator="|found")
        found = [Finding("rows", len(both), float((both["|found"] != "both").sum()))]
        for name in again.columns.difference(keys, sort=False):
            tolerance = self.columns.get(name, self.numbers if is_float_dtype(again[name]) else EXACT)
            if tolerance is not None:
                found.append(self._column(name, both, tolerance))
        return found

    def _column(self, name: str, both: pd.DataFrame, tolerance: Tolerance) -> Finding:
        one, two = both[f"{name}|r"], both[name]
        if not all(is_numeric_dtype(x) for x in (one, two)):
            gap, size = (one.astype(str) != two.astype(str)).to_numpy(float), 0.0
        else:
            one, two = one.to_numpy(float), two.to_numpy(float)
            gap = np.where((one == two) | (np.isnan(one) & np.isnan(two)), 0.0, np.abs(one - two))
            gap, size = np.nan_to_num(gap, nan=np.inf), np.maximum(np.abs(one), np.abs(two))
        scale = np.sqrt(both[tolerance.tokens]) if tolerance.tokens else 1.0
        allowed = np.broadcast_to(tolerance.absolute * scale + tolerance.relative * size, gap.shape)
        return worst(name, gap, allowed, tolerance.share)


def worst(what: str, gap: np.ndarray, allowed: np.ndarray, share: float = 0.0) -> Finding:
    """The cell that differs most beside what is allowed; with ``share`` that of all cells."""
    if not len(gap):
        return Finding(what, 0)
    over = gap > np.nan_to_num(allowed)
    if share:
        return Finding(what, len(gap), float(over.mean()), max(share, 1 / len(gap)))
    at = int(np.argmax(np.where(gap > 0, gap / np.maximum(allowed, 1e-300), 0.0)))
    return Finding(what, len(gap), float(gap[at]), float(allowed[at]))


def holds(what: str, flags) -> Finding:
    """What must be true of every row: the difference is the number of rows where it is not."""
    flags = np.asarray(flags, dtype=bool).ravel()
    return Finding(what, len(flags), float((~flags).sum()))
