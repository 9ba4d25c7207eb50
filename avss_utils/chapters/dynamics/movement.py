"""How far each block's scores have moved since before training, which moved most, and with what."""

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from avss_utils.chapters.dynamics.stats_callback import FOLLOWED, SITES, WHOLE
from avss_utils.errors import UsageError
from avss_utils.stats.block_profiles import autoregressive_p, kendall_w, rank_correlation

UNIT = ["task", "method", "seed"]  # what names one training in a table of several
WEIGHTS = "weights"
LOSS, ACCURACY = "development loss", "development accuracy"
PRUNED = "pruned loss"  # of a whole model under a plan, see ``plans_held``
LEAST_POINTS = 5  # below which smoothness cannot be told
SHOWN = ("variance", "relative sparsity")  # of a site, beside the absolute sparsity
_OF_SITES = [f"{site} {what}" for site in SITES for what in (*SHOWN, "sparsity")]
SCORES = (*_OF_SITES, *FOLLOWED, "eavss", WEIGHTS)


def check_choice(score: str, method: str, methods: Sequence[str]) -> None:
    """Raise UsageError unless blocks can be chosen by the movement of this score in this method."""
    if score not in SCORES:
        raise UsageError(
            f"blocks cannot be frozen by {score!r}: choose from {', '.join(sorted(SCORES))}"
        )
    if method not in methods:
        raise UsageError(
            f"movement is not followed in method {method!r}: choose from {', '.join(methods)}"
        )


def before_and_after(rows: pd.DataFrame) -> pd.DataFrame:
    """Losses and accuracies before the first step and after the last, means over seeds.

    ``rows``: of ``Dynamics.tuned``. One row per task, method and measure; NaN where not looked at.
    """
    own = rows[(rows.block == WHOLE) & (rows.measure != PRUNED)]
    own = own[own.measure.str.endswith((" loss", " accuracy"))]
    last = own.step.max()
    own = own[own.step.isin([0, last])].assign(when=own.step.map({0: "before", last: "after"}))
    table = own.pivot_table(
        index=["task", "method", "measure"], columns="when", values="value", sort=False
    )
    return table[["before", "after"]].rename_axis(columns=None).reset_index()


def moved(rows: pd.DataFrame) -> pd.DataFrame:
    """How far the scores of each block are from those of step 0: UNIT, score, step, block, moved.

    ``rows``: of ``Dynamics.tuned``; ``score``: site and measure in one word. abs(log(value / value
    at step 0)), 0 and above, infinite where one of both is 0; of "weights", which are a movement
    already, the value itself.
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


def profile(table: pd.DataFrame, score: str, **unit: Any) -> np.ndarray:
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
    return tuple(sorted(order[-n:].tolist())), tuple(sorted(order[:n].tolist()))


def movement_table(table: pd.DataFrame) -> pd.DataFrame:
    """One row per task, method and score, at the last step: median and largest over blocks of the
    mean over seeds, the block that moved most, the one that moved least, and how alike seeds are.

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
    rows: pd.DataFrame, table: pd.DataFrame, scores: Sequence[str], *, seed: int
) -> pd.DataFrame:
    """Does the movement of a score go with loss and accuracy over the steps after step 0?

    One row per UNIT, score and outcome (LOSS, ACCURACY): rho (Spearman, of the movement averaged
    over blocks with the outcome), n steps, and two p-values that mind how smooth both are: by
    circular shifts (p_shift) and against profiles as smooth (p_smooth). NaN where one of both does
    not vary, or with fewer steps than LEAST_POINTS. Trainings without an outcome have no row of it.
    """
    later = table[table.score.isin(list(scores)) & (table.step > 0)]
    means = later.groupby([*UNIT, "score", "step"], sort=False).moved.mean()
    found = []
    for outcome in (LOSS, ACCURACY):
        values = rows[rows.measure == outcome].set_index([*UNIT, "step"]).value.sort_index()
        known = set(values.index.droplevel("step"))
        for key, own in means.groupby([*UNIT, "score"], sort=False):
            if key[:3] in known:
                wanted = values.loc[key[:3]].loc[own.index.get_level_values("step")].to_numpy()
                related = _smooth_correlation(own.to_numpy(), wanted, seed=seed)
                found.append((*key, outcome, *related))
    names = [*UNIT, "score", "outcome", "rho", "p_shift", "p_smooth", "n"]
    return pd.DataFrame(found, columns=names)


def along_summary(along: pd.DataFrame, scores: Sequence[str]) -> pd.DataFrame:
    """``along_steps`` in words: a row per score in this order, a column per outcome and method.

    A cell: mean over trainings (lowest to highest), and in how many p_smooth is below 0.05.
    """
    cells = []
    found = along.dropna(subset="rho").groupby(["score", "outcome", "method"], sort=False)
    for (score, outcome, method), own in found:
        span = f"{own.rho.mean():.2f} ({own.rho.min():.2f} to {own.rho.max():.2f})"
        text = f"{span}, {(own.p_smooth < 0.05).sum()} of {len(own)}".replace("-", "−")
        cells.append((score, f"{outcome.removeprefix('development ')}, {method}", text))
    table = pd.DataFrame(cells, columns=["score", "with", "rho"])
    table = table.pivot(index="score", columns="with", values="rho").fillna("")
    order = [score for score in scores if score in table.index]
    return table.loc[order].rename_axis(columns=None).reset_index()


def with_weights(table: pd.DataFrame, scores: Sequence[str], *, seed: int) -> pd.DataFrame:
    """Have the blocks whose score moved most also changed their weights most?

    One row per task, method and score at the last step, means over seeds: columns as those of
    ``along_steps``, over blocks.
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
    """Do the same blocks move whatever is learned? One row per method and two tasks, as above."""
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
