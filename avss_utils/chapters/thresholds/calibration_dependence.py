"""Does a criterion rank the blocks alike on other calibration texts?"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

import numpy as np
import pandas as pd

from avss_utils.measure.block_stats import BlockStats
from avss_utils.models.plan import as_drop, as_text
from avss_utils.scores.criteria import score_blocks
from avss_utils.stats.block_profiles import kendall_w

Draw = tuple[str, int, int]


def separate_draws(whole: pd.DataFrame, *, sizes: Iterable[int], n_draws: int) -> list[Draw]:
    """(calibration set, size, draw): random draws of its texts, of which no two share a text.

    ``whole``: calibration and size, the number of its texts. There are ``n_draws`` of a size, or as
    many as the texts allow; sizes that allow only one are left out.
    """
    n_texts, sizes = whole.groupby("calibration", sort=False)["size"].first(), list(sizes)
    found = [(name, size, min(n_draws, n // size)) for name, n in n_texts.items() for size in sizes]
    return [(name, size, i) for name, size, n in found for i in range(n) if n > 1]


def drawn_texts(
    n_texts: int, size: int, draw: int, *, sizes: Iterable[int], seed: int
) -> np.ndarray:
    """Numbers of the texts of one of ``separate_draws``, (size,)."""
    rng = np.random.default_rng(seed)
    shuffled = {one: rng.permutation(n_texts) for one in sizes}
    return shuffled[size][draw * size : (draw + 1) * size]


def orders(
    stats: BlockStats, criteria: Sequence[str], *, options: Mapping[str, float]
) -> pd.DataFrame:
    """Blocks from least to most important, one row per criterion: criterion, order."""
    scores = ((name, score_blocks(name, stats, **options)) for name in criteria)
    rows = [(name, as_text(np.argsort(score, kind="stable"))) for name, score in scores]
    return pd.DataFrame(rows, columns=["criterion", "order"])


def agreement(table: pd.DataFrame, by: list[str], *, n_drop: int) -> pd.DataFrame:
    """How alike the rankings of each group ``by`` are: W, overlap, and both in excess of chance.

    ``w``: Kendall's W over all blocks, ``w_excess`` = W less its expectation 1 / m for m unrelated
    rankings, over 1 less that; ``overlap``: mean share of the ``n_drop`` lowest blocks that two
    rankings have in common, ``overlap_excess`` likewise beyond n_drop / n_blocks. 1 = always the
    same, 0 = chance. Groups of one ranking are left out.
    """
    rows = []
    for key, own in table.groupby(by, sort=False):
        found = np.array([as_drop(order) for order in own["order"]])
        m, n = found.shape
        if m < 2:
            continue
        ranks = np.argsort(found, axis=1)
        lowest = [set(order[:n_drop]) for order in found.tolist()]
        overlap = float(np.mean([len(a & b) / n_drop for a, b in combinations(lowest, 2)]))
        w, by_chance = kendall_w(ranks), n_drop / n
        excess = (w - 1 / m) / (1 - 1 / m)
        rows.append((*key, m, w, excess, overlap, (overlap - by_chance) / (1 - by_chance)))
    return pd.DataFrame(rows, columns=[*by, "m", "w", "w_excess", "overlap", "overlap_excess"])


def set_plans(
    whole: pd.DataFrame, criteria: Sequence[str], *, n_drops: Iterable[int]
) -> pd.DataFrame:
    """What each calibration set as a whole removes by some criteria, for each number of blocks.

    ``whole``: calibration, criterion, order. Columns: arm ("criterion on set"), n_dropped, drop.
    """
    rows = [
        (f"{row.criterion} on {row.calibration}", n, as_text(sorted(as_drop(row.order)[:n])))
        for row in whole[whole.criterion.isin(list(criteria))].itertuples()
        for n in n_drops
    ]
    return pd.DataFrame(rows, columns=["arm", "n_dropped", "drop"])
