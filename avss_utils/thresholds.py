"""How much of the performance stays as more blocks go, and where it leaves a given share."""

import copy
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from avss_utils.arms import Calibration, plan_arm
from avss_utils.evaluation import judge_answers
from avss_utils.pruning import as_drop, as_text, plan_random
from avss_utils.retention import BASELINE
from avss_utils.statistics import (
    Estimate,
    bootstrap,
    corrected_ratio,
    limits,
    mean,
    ratio_of_means,
    safe_ratio,
)
from avss_utils.suites import Suite


def curve_plans(
    arms: Sequence[str],
    collect: Calibration,
    *,
    n_blocks: int,
    n_drops: Iterable[int],
    options: dict,
    n_random: int,
    seed: int,
) -> pd.DataFrame:
    """A row an arm and number of removed blocks: arm, n_dropped, drop.

    Arms "random 0", "random 1", ... are end-protected random sets.
    """
    rng, rows = np.random.default_rng(seed), []
    for n in n_drops:
        for arm in arms:
            plan = plan_arm(
                arm, collect, n_blocks=n_blocks, drop_ratio=n / n_blocks, options=options
            )
            rows.append((arm, n, as_text(plan.drop)))
        for number in range(n_random):
            plan = plan_random(n_blocks, n_drop=n, rng=rng, protect_ends=True)
            rows.append((f"random {number}", n, as_text(plan.drop)))
    return pd.DataFrame(rows, columns=["arm", "n_dropped", "drop"])


def plans_to_judge(*tables: pd.DataFrame) -> list[tuple[str, tuple[int, ...]]]:
    """The full model and every distinct set of blocks of the tables, by ``plan_name``."""
    drops = {plan_name(drop): as_drop(drop) for table in tables for drop in table["drop"]}
    return [(BASELINE, ()), *drops.items()]


def plan_name(drop: object) -> str:
    """What a set of blocks is called in tables: "without 3 4 17". Never a number, even for one."""
    return f"without {drop}"


def right_rows(judged, suite: Suite, arm: tuple[str, tuple[int, ...]]) -> pd.DataFrame:
    """Which questions an arm gets right, a row a task: arm, task, right (".xx.").

    One character a question, x where it is right, in the order of ``question_table``: a row a
    question would make the record of a few hundred plans too large to keep.
    """
    answers = judge_answers(judged, suite, arm)
    rows = [
        (arm[0], task, "".join(".x"[right] for right in (own.label == own.prediction)))
        for task, own in answers.groupby("task", sort=False)
    ]
    return pd.DataFrame(rows, columns=["arm", "task", "right"])


def question_table(suite: Suite) -> pd.DataFrame:
    """The questions behind ``right_rows``: task, row_id, n_choices."""
    rows = [(t, q.row_id, len(q.choices)) for t, own in suite.questions.items() for q in own]
    return pd.DataFrame(rows, columns=["task", "row_id", "n_choices"])


class Rights:
    """``right_rows`` by arm and task, (n_questions,) of 0 and 1, and each question's chance."""

    def __init__(self, rights: pd.DataFrame, questions: pd.DataFrame) -> None:
        self.by = {
            (row.arm, row.task): np.array([c == "x" for c in row.right], dtype=float)
            for row in rights.itertuples()
        }
        self.chance = {t: 1 / own.n_choices.to_numpy(float) for t, own in questions.groupby("task")}
        self.tasks = list(dict.fromkeys(questions.task))

    def of(self, arm: str, task: str) -> np.ndarray:
        return self.by[arm, task]

    def testable(self, *, seed: int) -> list[str]:
        """Tasks on which the full model's accuracy is above chance with its whole interval."""
        above = {
            task: mean(self.of(BASELINE, task) - chance, rng=np.random.default_rng(seed))
            for task, chance in self.chance.items()
        }
        return [task for task in self.tasks if above[task].low > 0]

    def only(self, tasks: Sequence[str]) -> "Rights":
        """The same for some of the tasks."""
        part = copy.copy(self)
        part.tasks = list(tasks)
        return part


def retention_rows(plans: pd.DataFrame, rights: Rights, *, seed: int) -> pd.DataFrame:
    """Raw and chance-corrected retention with intervals, a row a plan's row, task and measure."""
    rows = []
    for row in plans.itertuples():
        for task in rights.tasks:
            own, full = rights.of(plan_name(row.drop), task), rights.of(BASELINE, task)
            rng = np.random.default_rng(seed)
            raw = ratio_of_means(own, full, rng=rng)
            corrected = corrected_ratio(own, full, rights.chance[task], rng=rng)
            for measure, e in (("raw retention", raw), ("corrected retention", corrected)):
                rows.append((row.arm, row.n_dropped, task, measure, e.value, e.low, e.high, e.n))
    names = ["arm", "n_dropped", "task", "measure", "value", "low", "high", "n"]
    return pd.DataFrame(rows, columns=names)


def pooled_retention(
    plans: pd.DataFrame, rights: Rights, *, reference: str, seed: int, n_resamples: int = 2000
) -> pd.DataFrame:
    """Retention averaged over tasks, and its difference from a reference arm's.

    Columns: arm, measure (mean raw retention, difference from the reference), value, low, high, n.
    Questions are drawn anew within each task, the same ones for every arm. Without a task there is
    no estimate (NaN) and no limit.
    """
    drops = plans.set_index("arm")["drop"]
    nothing = np.full(n_resamples + 1, 0.0 if rights.tasks else np.nan)
    draws = dict.fromkeys(drops.index, nothing)
    for number, task in enumerate(rights.tasks):
        full, n = rights.of(BASELINE, task), len(rights.of(BASELINE, task))
        drawn = np.random.default_rng([seed, number]).multinomial(n, [1 / n] * n, n_resamples) / n
        weights = np.vstack([np.full(n, 1 / n), drawn])  # the first row is the estimate
        for arm, drop in drops.items():
            ratio = safe_ratio(weights @ rights.of(plan_name(drop), task), weights @ full)
            draws[arm] = draws[arm] + ratio / len(rights.tasks)
    n_rows = sum(len(rights.of(BASELINE, task)) for task in rights.tasks)
    rows = []
    for arm, own in draws.items():
        rows.append((arm, "mean raw retention", *_with_limits(own), n_rows))
        if reference in draws and arm != reference:
            gap = _with_limits(own - draws[reference])
            rows.append((arm, f"less that of {reference}", *gap, n_rows))
    return pd.DataFrame(rows, columns=["arm", "measure", "value", "low", "high", "n"])


def _with_limits(draws: np.ndarray) -> tuple[float, float, float]:
    """The first draw, which is the estimate, and the percentiles of the others."""
    return float(draws[0]), *limits(draws[1:])


def guide(
    plans: pd.DataFrame,
    kept: pd.DataFrame,
    bits: pd.DataFrame,
    effort: pd.DataFrame,
    within: pd.DataFrame,
) -> pd.DataFrame:
    """The practitioner's table: a row an arm, best bits per byte first.

    ``kept``: raw retention by task; ``bits``: bits per byte by plan; ``effort``: what each search
    and the one pass of statistics ("statistics") cost, n/a where that was not timed;
    ``within``: agreement of rankings, averaged over calibration sets.
    """
    raw = kept[kept.measure == "raw retention"].pivot(index="arm", columns="task", values="value")
    table = plans[["arm", "drop"]].join(raw, on="arm")
    table["bits per byte"] = table["drop"].map(plan_name).map(bits.set_index("arm").value)
    costs = effort.set_index("criterion")
    name = table.arm.str.removesuffix("-protected")
    statistic = ~name.isin(costs.index) & ~name.str.startswith(("tail", "random", "weight"))
    paid = name.where(~statistic, "statistics")
    table["seconds"] = paid.map(costs.seconds).where(statistic | paid.isin(costs.index), 0.0)
    table["passes"] = paid.map(costs.passes).where(~statistic, 1.0).fillna(0.0)
    table["overlap beyond chance"] = name.map(within.groupby("criterion").overlap_excess.mean())
    return table.sort_values("bits per byte", kind="stable", ignore_index=True)


def crossings(
    plans: pd.DataFrame, rights: Rights, *, n_blocks: int, kept: float, seed: int, n_resamples=1000
) -> pd.DataFrame:
    """The drop ratio at which retention first leaves ``kept``, by arm, task and measure.

    Between two measured ratios the retention is taken as linear; the interval is over questions.
    A curve that never leaves ``kept`` has the largest measured ratio, and ``open`` says yes.
    """
    rows = []
    for arm, own in plans.groupby("arm", sort=False):
        own = own.sort_values("n_dropped")
        ratios = np.array([0, *own.n_dropped]) / n_blocks
        for task in rights.tasks:
            right = np.stack([rights.of(p, task) for p in (BASELINE, *map(plan_name, own["drop"]))])
            n, chance = right.shape[1], rights.chance[task]
            drawn = np.random.default_rng(seed).multinomial(n, [1 / n] * n, n_resamples) / n
            weights = np.vstack([np.full(n, 1 / n), drawn])  # the first row is the estimate
            for measure, level in (("raw", 0.0), ("corrected", chance)):
                means = weights @ (right - level).T
                found = np.array([_first_below(m, ratios, kept) for m in means])
                low, high = np.quantile(found[1:], [0.025, 0.975])
                is_open = found[0] >= ratios[-1]
                rows.append((arm, task, measure, found[0], low, high, n, "yes" if is_open else ""))
    names = ["arm", "task", "measure", "value", "low", "high", "n", "open"]
    return pd.DataFrame(rows, columns=names)


def break_gap(texts: pd.DataFrame, first: str, second: str, *, seed: int) -> Estimate:
    """Bits per byte of plan ``first`` less those of ``second`` over the same windows."""
    keys = ["text_set", "row_id", "window"]
    wide = texts.pivot(index=keys, columns="arm", values="nll")
    n_bytes = texts[texts.arm == first].set_index(keys).n_bytes
    return bootstrap(
        lambda g, b, axis: g.sum(axis) / np.log(2) / b.sum(axis),
        (wide[first] - wide[second]).to_numpy(float),
        n_bytes.loc[wide.index].to_numpy(float),
        rng=np.random.default_rng(seed),
    )


def _first_below(means: np.ndarray, ratios: np.ndarray, kept: float) -> float:
    """Where means / means[0] first falls below ``kept``, linear in between."""
    if means[0] <= 0:
        return 0.0
    retention = means / means[0]
    below = np.flatnonzero(retention < kept)
    if not len(below):
        return float(ratios[-1])
    i = below[0]
    share = (retention[i - 1] - kept) / (retention[i - 1] - retention[i])
    return float(ratios[i - 1] + share * (ratios[i] - ratios[i - 1]))
