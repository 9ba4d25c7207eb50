"""How far each block's scores have moved since before training, which moved most, and with what."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pandas as pd

from avss_utils.chapters.dynamics.tidy_rows import WHOLE
from avss_utils.stats.block_profiles import autoregressive_p, kendall_w, rank_correlation

UNIT = ["task", "method", "seed"]  # what names one training in a table of several
WEIGHTS = "weights"
LOSS, ACCURACY = "development loss", "development accuracy"
LEAST_POINTS = 5  # below which smoothness cannot be told


def moved(rows: pd.DataFrame) -> pd.DataFrame:
    """How far the scores of each block are from those of step 0: UNIT, score, step, block, moved.

    ``rows``: those of ``StatsCallback``, with the columns UNIT; ``score``: site and measure in one
    word. abs(log(value / value at step 0)), 0 and above, infinite where one of both is 0; of
    "weights", which are a movement already, the value itself.
    """
    own = rows[rows.block != WHOLE]
    score = (own.site.astype(str) + " " + own.measure.astype(str)).str.strip()
    table = own.assign(score=score)[[*UNIT, "score", "step", "block", "value"]]
    start = table[table.step == 0].drop(columns="step")
    joined = table.merge(start, on=[*UNIT, "score", "block"], suffixes=("", "_before"))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.abs(np.log(joined.value / joined.value_before))
    both_zero = (joined.value == 0) & (joined.value_before == 0)
    joined["moved"] = ratio.mask(both_zero, 0.0).mask(joined.score == WEIGHTS, joined.value)
    return joined[[*UNIT, "score", "step", "block", "moved"]]


def at_end(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of each training's last step."""
    return table[table.step == table.groupby(UNIT).step.transform("max")]


def profile(table: pd.DataFrame, score: str, **unit) -> np.ndarray:
    """Movement of one score at the last step by block, (n_blocks,), mean over seeds and the rest.

    ``unit``: one value or several of the columns UNIT to go by. KeyError where there is none of it.
    """
    own = at_end(table[table.score == score])
    for name, value in unit.items():
        own = own[own[name].isin(np.atleast_1d(value))]
    if own.empty:
        raise KeyError((score, unit))
    return own.groupby("block").moved.mean().to_numpy()


def thirds(movement: np.ndarray) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The third of the blocks that moved most, and the third that moved least, ascending.

    floor(n / 3) blocks each, at least one; among equals the earlier block counts as less moved.
    """
    order = np.argsort(movement, kind="stable")
    n = max(1, len(order) // 3)
    return _ascending(order[-n:]), _ascending(order[:n])


def movement_table(table: pd.DataFrame) -> pd.DataFrame:
    """A row a task, method and score, at the last step: median and largest over blocks of the mean
    over seeds, the block that moved most and the one that moved least, and how alike seeds are.

    ``agreement``: Kendall's W of the seeds' rankings in excess of chance (1 = all rank the blocks
    alike, 0 = they know nothing of each other); NaN with one seed, or where a seed moved no block.
    """
    rows = []
    for key, own in at_end(table).groupby(["task", "method", "score"], sort=False):
        each = own.pivot(index="seed", columns="block", values="moved").to_numpy()
        mean = each.mean(0)
        largest, smallest = int(mean.argmax()), int(mean.argmin())
        rows.append((*key, np.median(mean), mean.max(), largest, smallest, _agreement(each)))
    names = ["task", "method", "score", "median", "largest", "most", "least", "agreement"]
    return pd.DataFrame(rows, columns=names)


def _agreement(profiles: np.ndarray) -> float:
    from scipy.stats import rankdata  # half a second, and not every command needs it

    m = len(profiles)
    if m < 2 or not np.isfinite(profiles).all() or (np.ptp(profiles, axis=1) == 0).any():
        return float("nan")
    return (kendall_w(rankdata(profiles, axis=1)) - 1 / m) / (1 - 1 / m)


def along_steps(
    rows: pd.DataFrame,
    table: pd.DataFrame,
    scores: Sequence[str],
    *,
    seed: int,
    outcome: str = LOSS,
) -> pd.DataFrame:
    """Does the movement of a score go with the development loss over the steps after step 0?

    A row a UNIT and score: rho (Spearman, of the movement averaged over blocks with the loss), n
    steps, and two p-values that mind how smooth both are: by circular shifts (p_shift) and against
    profiles as smooth (p_smooth). NaN where one of both does not vary, or with fewer steps than
    LEAST_POINTS. ``outcome``: LOSS or ACCURACY; trainings without it have no row.
    """
    followed = rows[rows.measure == outcome]
    losses = followed.set_index([*UNIT, "step"]).value.sort_index()
    later = table[table.score.isin(list(scores)) & (table.step > 0)]
    later = later.merge(followed[UNIT].drop_duplicates(), on=UNIT)
    means = later.groupby([*UNIT, "score", "step"], sort=False)
    found = []
    for key, own in means.moved.mean().groupby([*UNIT, "score"], sort=False):
        steps = own.index.get_level_values("step")
        loss = losses.loc[key[:3]].loc[steps].to_numpy()
        found.append((*key, *_smooth_correlation(own.to_numpy(), loss, seed=seed)))
    return pd.DataFrame(found, columns=[*UNIT, "score", "rho", "p_shift", "p_smooth", "n"])


def with_weights(table: pd.DataFrame, scores: Sequence[str], *, seed: int) -> pd.DataFrame:
    """Have the blocks whose score moved most also changed their weights most?

    A row a task, method and score at the last step, means over seeds: columns as ``along_steps``,
    over blocks.
    """
    found = []
    for task, method in table[["task", "method"]].drop_duplicates().itertuples(index=False):
        of_weights = profile(table, WEIGHTS, task=task, method=method)
        for score in scores:
            own = profile(table, score, task=task, method=method)
            found.append((task, method, score, *_smooth_correlation(own, of_weights, seed=seed)))
    names = ["task", "method", "score", "rho", "p_shift", "p_smooth", "n"]
    return pd.DataFrame(found, columns=names)


def between_tasks(table: pd.DataFrame, score: str, *, seed: int) -> pd.DataFrame:
    """Do the same blocks move whatever is learned? A row a method and two tasks, as above."""
    found = []
    for method, own in table.groupby("method", sort=False):
        for one, two in combinations(own.task.unique(), 2):
            pair = [profile(own, score, task=task) for task in (one, two)]
            found.append((method, one, two, *_smooth_correlation(*pair, seed=seed)))
    return pd.DataFrame(found, columns=["method", "one", "two", "rho", "p_shift", "p_smooth", "n"])


def _smooth_correlation(x: np.ndarray, y: np.ndarray, *, seed: int) -> tuple:
    varies = all(np.isfinite(v).all() and np.ptp(v) > 0 for v in (x, y))
    if not varies or len(x) < LEAST_POINTS:
        return np.nan, np.nan, np.nan, len(x)
    found = rank_correlation(x, y)
    p_smooth = autoregressive_p(x, y, rng=np.random.default_rng(seed))
    return found.rho, found.p_value, p_smooth, found.n


def _ascending(numbers: np.ndarray) -> tuple[int, ...]:
    return tuple(sorted(map(int, numbers)))
