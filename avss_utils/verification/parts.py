"""What one comparison found: how many numbers, the largest difference, what was allowed."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from pandas.api.types import is_bool_dtype, is_numeric_dtype

from avss_utils.profiles import rank_correlation
from avss_utils.runs import UsageError

WRITTEN = 1e-6  # relative: tables hold nine digits, and what follows from them loses some
FLIPS = 0.05  # share of predictions that another number format may turn over


class MissingError(UsageError):
    """What a check needs and is not here: data, or the model's weights."""


@dataclass(frozen=True)
class Part:
    """One comparison: ``largest`` difference of ``n`` numbers, at most ``tolerance`` allowed.

    ``is_share``: the difference is a share of the ``n``, which parts of one kind have together;
    ``missing``: nothing was compared, for what ``what`` says is not here.
    """

    what: str
    n: int = 0
    largest: float = 0.0
    tolerance: float = 0.0
    is_share: bool = False
    missing: bool = False

    @property
    def agrees(self) -> bool:
        """Whether nothing differs; a difference that is no number does."""
        return self.missing or bool(self.largest <= self.allowed)

    @property
    def allowed(self) -> float:
        """The tolerance; where a share may differ, one row always may."""
        return (
            max(self.tolerance, 1 / self.n) if self.is_share and self.tolerance else self.tolerance
        )

    @property
    def excess(self) -> float:
        """The difference in units of what is allowed, by which the worst part is found."""
        if self.largest == 0:
            return 0.0
        return self.largest / self.allowed if self.allowed else np.inf


def numbers(what: str, recorded, again, tolerance: float, *, relative: bool = False) -> Part:
    """Numbers beside numbers, in order; missing ones must be missing in both.

    ``relative``: differences over the larger of the two.
    """
    one, two = (np.asarray(x, dtype=float).ravel() for x in (recorded, again))
    if one.shape != two.shape or not len(one):
        return Part(f"{what} ({len(one)} recorded, {len(two)} again)", len(one), np.inf, tolerance)
    equal = (one == two) | (np.isnan(one) & np.isnan(two))
    with np.errstate(invalid="ignore"):
        gap = np.abs(one - two)
    if relative:
        gap = gap / np.maximum(np.maximum(np.abs(one), np.abs(two)), 1e-300)
    gap = np.where(equal, 0.0, np.where(np.isfinite(gap), gap, np.inf))
    return Part(what, len(one), float(gap.max()), tolerance)


def same(what: str, recorded, again) -> Part:
    """Cells that must be equal, compared as text; the difference is the share that is not."""
    return share_apart(what, recorded, again, 0.0)


def alike(what: str, recorded, again) -> Part:
    """Predictions, of which FLIPS, or one at least, may turn over between number formats."""
    return share_apart(what, recorded, again, FLIPS)


def share_apart(what: str, recorded, again, tolerance: float) -> Part:
    """The share of cells that are not equal as text."""
    one, two = (_as_text(x) for x in (recorded, again))
    if one.shape != two.shape or not len(one):
        return Part(f"{what} ({len(one)} recorded, {len(two)} again)", len(one), np.inf, 0.0)
    return Part(what, len(one), float((one != two).mean()), tolerance, is_share=True)


def _as_text(cells) -> np.ndarray:
    """Cells as text; a number is the same whether whole or not ("1", "1.0")."""
    cells = np.asarray(cells).ravel()
    return cells.astype(float if cells.dtype.kind in "iuf" else str).astype(str)


def holds(what: str, flags) -> Part:
    """What must be true of every row; the difference is the share of rows where it is not."""
    flags = np.asarray(flags, dtype=bool).ravel()
    return Part(what, len(flags), float(1 - flags.mean()) if len(flags) else np.inf, is_share=True)


def ranked(what: str, recorded, again, *, least: float) -> Part:
    """Averages of a few texts beside those of all: how far the rank correlation is below 1."""
    one, two = (np.asarray(x, dtype=float) for x in (recorded, again))
    rho = rank_correlation(one, two).rho if one.shape == two.shape else np.nan
    return Part(f"{what}: 1 - rank correlation", len(one), 1 - rho, round(1 - least, 9))


def frames(
    what: str, recorded: pd.DataFrame, again: pd.DataFrame, tolerance: float = WRITTEN
) -> Iterator[Part]:
    """Whole tables, column by column: numbers to a relative tolerance, anything else exactly."""
    yield same(f"{what}: columns", list(recorded.columns), list(again.columns))
    for name in recorded.columns.intersection(again.columns):
        one, two = recorded[name], again[name]
        if all(is_numeric_dtype(x) and not is_bool_dtype(x) for x in (one, two)):
            yield numbers(what, one, two, tolerance, relative=True)
        else:
            yield same(what, one, two)


def each(names: Iterable, make: Callable[..., Iterable[Part]]) -> Iterator[Part]:
    """Parts of every name; where the data of one is missing, the others are checked still."""
    for name in names:
        try:
            yield from make(name)
        except MissingError as error:
            yield Part(str(error), missing=True)


def merged(parts: Sequence[Part]) -> list[Part]:
    """Parts with the same words as one: shares put together, of others the worst difference."""
    by: dict[tuple, Part] = {}
    for part in parts:
        key = part.what, part.missing, part.is_share
        by[key] = _joined(by[key], part) if key in by else part
    return list(by.values())


def _joined(one: Part, two: Part) -> Part:
    n = one.n + two.n
    if one.is_share and np.isfinite([one.largest, two.largest]).all():
        share = (one.n * one.largest + two.n * two.largest) / n
        return replace(one, n=n, largest=share)
    worst = max(one, two, key=lambda part: (not part.agrees, part.excess))
    return replace(worst, n=n)
