"""Does a criterion rank the blocks alike on other calibration texts?"""

from collections.abc import Iterable, Sequence
from itertools import combinations

import numpy as np
import pandas as pd

from avss_utils.measure.activations import collect_block_stats
from avss_utils.measure.block_stats import BlockStats
from avss_utils.models.plan import as_drop, as_text
from avss_utils.scores.criteria import score_blocks
from avss_utils.stats.block_profiles import kendall_w

ALL_TEXTS = -1  # the draw that is a whole calibration set


def measured_orders(
    model, batches_by_set: dict[str, list[dict]], criteria: Sequence[str], *, options: dict, **draws
) -> pd.DataFrame:
    """``orders`` of the statistics of each set's batches, one pass over each.

    Every threshold among ``options`` (eps, bulk_eps) is counted.
    """
    stats = {
        name: collect_block_stats(model, batches, eps=tuple(options.values()), per_sequence=True)
        for name, batches in batches_by_set.items()
    }
    return orders(stats, criteria, options=options, **draws)


def orders(
    stats_by_set: dict[str, BlockStats],
    criteria: Sequence[str],
    *,
    sizes: Iterable[int],
    n_draws: int,
    seed: int,
    options: dict,
) -> pd.DataFrame:
    """Blocks from least to most important, a row a set, size, draw and criterion.

    ``stats_by_set`` hold a row a text (``per_sequence``). Draws of one size are random and share no
    text: there are ``n_draws`` of them, or as many as the texts allow; sizes that allow only one
    are left out. Draw ALL_TEXTS is the whole set. The model is not run again.
    """
    rows = []
    for name, stats in stats_by_set.items():
        n_texts = len(stats.n_tokens)
        rng = np.random.default_rng(seed)
        drawn = [(ALL_TEXTS, np.arange(n_texts))]
        for size in sizes:
            n = min(n_draws, n_texts // size)
            texts = rng.permutation(n_texts)[: n * size].reshape(n, size)
            drawn += enumerate(texts) if n > 1 else []
        for draw, texts in drawn:
            part = stats.rows(texts).merged()
            for criterion in criteria:
                order = np.argsort(score_blocks(criterion, part, **options), kind="stable")
                rows.append((name, len(texts), draw, criterion, as_text(order)))
    return pd.DataFrame(rows, columns=["calibration", "size", "draw", "criterion", "order"])


def agreement(table: pd.DataFrame, by: list[str], *, n_drop: int) -> pd.DataFrame:
    """How alike the rankings of each group ``by`` are: W, overlap, and both in excess of chance.

    ``w``: Kendall's W over all blocks, ``w_excess`` = W less its expectation 1 / m for m unrelated
    rankings, over 1 less that; ``overlap``: mean share of the ``n_drop`` lowest blocks that two
    rankings have in common, ``overlap_excess`` likewise beyond n_drop / n_blocks. 1 = always the
    same, 0 = chance.
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
    table: pd.DataFrame, criteria: Sequence[str], *, n_drops: Iterable[int]
) -> pd.DataFrame:
    """What the whole of each calibration set removes by some criteria, for each number of blocks.

    Columns: arm ("criterion on set"), n_dropped, drop.
    """
    whole = table[(table.draw == ALL_TEXTS) & table.criterion.isin(list(criteria))]
    rows = [
        (f"{row.criterion} on {row.calibration}", n, as_text(sorted(as_drop(row.order)[:n])))
        for row in whole.itertuples()
        for n in n_drops
    ]
    return pd.DataFrame(rows, columns=["arm", "n_dropped", "drop"])
