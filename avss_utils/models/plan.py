"""Which blocks go: a plan, how many, and sets of blocks as text."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from avss_utils.errors import UsageError


@dataclass(frozen=True)
class PruningPlan:
    """Numbers of the removed blocks, ascending, of a model with ``n_blocks``, and the rule."""

    drop: tuple[int, ...]
    n_blocks: int
    rule: str

    def __post_init__(self) -> None:
        drop = tuple(sorted(int(i) for i in self.drop))
        object.__setattr__(self, "drop", drop)
        if len(set(drop)) != len(drop) or (drop and not 0 <= drop[0] <= drop[-1] < self.n_blocks):
            raise UsageError(
                f"removed blocks must be different numbers from 0 to {self.n_blocks - 1}: {drop}"
            )

    @property
    def keep(self) -> tuple[int, ...]:
        return tuple(i for i in range(self.n_blocks) if i not in self.drop)


def n_to_drop(n_blocks: int, *, ratio: float) -> int:
    """floor(ratio x n_blocks), the papers' "lowest 25 %"; ratio in (0, 1), at least one block."""
    if not (isinstance(ratio, (int, float)) and 0 < ratio < 1):
        raise UsageError(f"drop_ratio must be a number above 0 and below 1, not {ratio!r}")
    n = math.floor(ratio * n_blocks + 1e-9)  # 0.29 x 100 is 28.999... in floating point
    if n < 1:
        least = math.ceil(1000 / n_blocks) / 1000
        raise UsageError(
            f"drop_ratio {ratio} removes none of {n_blocks} blocks: take {least} or more"
        )
    return n


def as_text(drop: Iterable[int]) -> str:
    """Block numbers as one CSV cell: "3 4 17"; "-" for none."""
    return " ".join(map(str, drop)) or "-"


def as_drop(text: str) -> tuple[int, ...]:
    """The inverse of ``as_text``; UsageError for anything else."""
    words = [] if str(text).strip() == "-" else str(text).replace(",", " ").split()
    if not all(word.isdecimal() for word in words):
        raise UsageError(f'block numbers are written like "3 4 17", not {text!r}')
    return tuple(int(word) for word in words)
