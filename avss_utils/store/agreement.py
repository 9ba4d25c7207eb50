"""How a recorded table is held against some of it computed again, and within which tolerance.

A function that computes a table says so beside itself (``checked``): what names a row, how far
numbers may lie apart, and in which smaller sizes a key can be made whose rows are a part of the
record's. The tolerances are declared here, each with its reason, before a record is compared.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

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
}
ANYTHING = None  # the tolerance of what is not compared: a time, or noise
PICKS: dict[str, Callable[[list], list]] = {
    "all": list,
    "first": lambda keys: keys[:1],
    "last": lambda keys: keys[-1:],
    "ends": lambda keys: keys if len(keys) < 2 else [keys[0], keys[-1]],
}


@dataclass(frozen=True)
class Check:
    """How a table is held against some of it computed again.

    ``by``: columns that name a row. ``numbers``: tolerance of columns of floats, others must be
    equal; ``but``: those with a tolerance of their own, ANYTHING for what is not compared.
    ``sizes``: parameters as they are when a key is computed again, no larger than the record's;
    of a list, how many from its front; ``first_blocks``: the model's first blocks alone, whose
    activations are those of the whole. ``pick``: which keys, a name of PICKS or a function of the
    list. ``only``: values of columns to which the comparison keeps. ``key``: columns of the record
    whose values are the first parts of all keys. ``values``: False if the numbers are of a device
    that is not here: a key is made in ``sizes`` and its columns are compared. ``form``: what holds
    of every row of the record, a function of the table to booleans. ``known``: column -> how far
    the record is known to differ, and why. ``table``: which one, of several made together.
    """

    table: str = ""
    by: str = ""
    numbers: str | None = "FLOAT32"
    but: Mapping[str, str | None] = field(default_factory=dict)
    sizes: Mapping[str, object] = field(default_factory=dict)
    pick: str | Callable[[list], list] = "ends"
    only: Mapping[str, Sequence] = field(default_factory=dict)
    key: str = ""
    values: bool = True
    form: Callable[[pd.DataFrame], pd.Series] | None = None
    known: Mapping[str, tuple[float, str]] = field(default_factory=dict)

    def picked(self, keys: Iterable, n: int) -> list:
        """Which of the keys are computed again: ``n`` at most, unless ``pick`` is a function."""
        keys = list(keys)
        return self.pick(keys) if callable(self.pick) else PICKS[self.pick](keys)[:n]


def checked(**declared: Any) -> Callable:
    """Say of a function that computes a table how the table is verified: fields of ``Check``."""

    def declare(function: Any) -> Callable:
        function.checks = (Check(**declared), *getattr(function, "checks", ()))
        return function

    return declare


def checks_of(function: Callable, table: str = "") -> Sequence[Check]:
    """What a function declares, of one of several tables what it declares of this one."""
    return [check for check in getattr(function, "checks", ()) if check.table == table]


@dataclass(frozen=True)
class Finding:
    """What one comparison found: ``n`` cells, their ``largest`` difference, the ``allowed`` one.

    ``known``: why a difference beyond that is expected.
    """

    what: str
    n: int
    largest: float = 0.0
    allowed: float = 0.0
    known: str = ""

    @property
    def agrees(self) -> bool:
        """Whether something was compared, and nothing differs by more than is allowed."""
        return self.n > 0 and bool(self.largest <= self.allowed)


def compare(check: Check, recorded: pd.DataFrame, again: pd.DataFrame) -> list[Finding]:
    """One finding per column, and one of rows that the record lacks or has twice."""
    if lacking := [name for name in again if name not in recorded]:
        return [Finding(f"column {' '.join(lacking)}", 1, np.inf)]
    if not check.values:
        return [Finding("columns", again.shape[1], float(again.empty))]
    for column, values in check.only.items():
        recorded, again = (table[table[column].isin(values)] for table in (recorded, again))
    keys = check.by.split()
    recorded, again = (
        table.reset_index(drop=True).astype(dict.fromkeys(keys, str)) for table in (recorded, again)
    )
    both = again.merge(recorded, on=keys, how="left", suffixes=("", "|r"), indicator="|in")
    alone = (both["|in"] != "both") | both.duplicated(keys)
    found = [Finding("rows", len(both), float(alone.sum()))]
    for name in again.columns.difference(keys, sort=False):
        default = check.numbers if is_float_dtype(again[name]) else "EXACT"
        if tolerance := check.but.get(name, default):
            finding = _column(name, both[both["|in"] == "both"], TOLERANCES[tolerance])
            found.append(_excused(finding, check))
    return found


def keys_recorded(check: Check, recorded: pd.DataFrame, keys: Iterable) -> Finding:
    """Whether the record has rows of every key and of no other."""
    columns = check.key.split()
    own = set(map(tuple, recorded[columns].astype(str).to_numpy()))
    wanted = {tuple(map(_cell, key if isinstance(key, tuple) else (key,))) for key in keys}
    wanted = {key[: len(columns)] for key in wanted}
    return Finding(f"every {' and '.join(columns)}", len(wanted), float(len(own ^ wanted)))


def _cell(part: object) -> str:
    """A part of a key as tables write it: a set of blocks is "3 4 17", none is "-"."""
    return " ".join(map(str, part)) or "-" if isinstance(part, tuple) else str(part)


def form_of(check: Check, recorded: pd.DataFrame) -> Finding:
    """Whether every row has the form that is declared."""
    flags = [True] if check.form is None else [bool(flag) for flag in check.form(recorded)]
    return Finding("form", len(flags), float(flags.count(False)))


def _excused(finding: Finding, check: Check) -> Finding:
    limit, why = check.known.get(finding.what, (-np.inf, ""))
    if finding.agrees or finding.largest > limit:
        return finding
    return Finding(finding.what, finding.n, finding.largest, limit, known=why)


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
