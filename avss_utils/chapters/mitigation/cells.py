"""Shares as letters: what an arm did to every question, in one cell of a table."""

from collections.abc import Iterable

import numpy as np

LEVELS = 26 * 26 - 1


def as_cells(shares: Iterable[float]) -> str:
    """Shares in [0, 1] as two letters each, of 676 levels: a row a question would fill the record.

    Letters, because a file would read digits as one number.
    """
    levels = [divmod(round(LEVELS * float(share)), 26) for share in shares]
    return "".join(chr(ord("a") + part) for level in levels for part in level)


def as_shares(cells: str) -> np.ndarray:
    """The shares of ``as_cells``, to less than a thousandth, (n_questions,)."""
    letters = np.frombuffer(cells.encode(), dtype=np.uint8) - ord("a")
    return letters.reshape(-1, 2) @ np.array([26, 1]) / LEVELS
