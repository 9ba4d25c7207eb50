"""Which questions an arm gets right, kept short, and what is retained of them."""

import copy
from collections.abc import Sequence

import numpy as np
import pandas as pd

from avss_utils.data.suites import Suite
from avss_utils.measure.judging import judge_answers
from avss_utils.models.plan import as_drop
from avss_utils.stats.resampling import N_RESAMPLES, limits, mean, resample_counts, safe_ratio
from avss_utils.stats.retention import BASELINE


def plans_to_judge(*tables: pd.DataFrame) -> list[tuple[str, tuple[int, ...]]]:
    """The full model and every distinct set of blocks of the tables, by ``plan_name``."""
    drops = ["-", *(drop for table in tables for drop in table["drop"])]
    return list({plan_name(drop): as_drop(drop) for drop in drops}.items())


def plan_name(drop: object) -> str:
    """What a set of blocks is called in tables: "without 3 4 17", never a number; "-" is "full"."""
    return BASELINE if drop == "-" else f"without {drop}"


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


def as_numbers(right: str) -> np.ndarray:
    """A cell of ``right_rows`` as 0 and 1, a number a question."""
    return np.array([c == "x" for c in right], dtype=float)


def question_table(suite: Suite) -> pd.DataFrame:
    """The questions behind ``right_rows``: task, row_id, n_choices."""
    rows = [(t, q.row_id, len(q.choices)) for t, own in suite.questions.items() for q in own]
    return pd.DataFrame(rows, columns=["task", "row_id", "n_choices"])


class Rights:
    """``right_rows`` by arm and task, (n_questions,) of 0 and 1, and each question's chance."""

    def __init__(self, rights: pd.DataFrame, questions: pd.DataFrame) -> None:
        self.by = {(row.arm, row.task): as_numbers(row.right) for row in rights.itertuples()}
        self.chance = {t: 1 / own.n_choices.to_numpy(float) for t, own in questions.groupby("task")}
        self.tasks = list(dict.fromkeys(questions.task))
        self.baseline = BASELINE

    def of(self, arm: str, task: str) -> np.ndarray:
        return self.by[arm, task]

    def full(self, task: str) -> np.ndarray:
        """What retention is measured against."""
        return self.by[self.baseline, task]

    def testable(self, *, seed: int) -> list[str]:
        """Tasks on which the full model's accuracy is above chance with its whole interval."""

        def low(task: str) -> float:
            above = self.full(task) - self.chance[task]
            return mean(above, rng=np.random.default_rng(seed)).low

        return [task for task in self.tasks if low(task) > 0]

    def only(self, tasks: Sequence[str]) -> "Rights":
        """The same for some of the tasks."""
        part = copy.copy(self)
        part.tasks = list(tasks)
        return part

    def instead(self, by: dict[tuple[str, str], np.ndarray], *, baseline: str) -> "Rights":
        """The same questions answered by others, with shares of right answers by arm and task."""
        others = copy.copy(self)
        others.by, others.baseline = by, baseline
        return others


def retention_rows(
    plans: pd.DataFrame, rights: Rights, *, seed: int, n_resamples: int = N_RESAMPLES
) -> pd.DataFrame:
    """Raw and chance-corrected retention with intervals, a row a plan's row, task and measure.

    The same questions are drawn anew for every plan.
    """
    found = {}
    for number, task in enumerate(rights.tasks):
        full = rights.full(task)
        own = np.stack([rights.of(plan_name(drop), task) for drop in plans["drop"]], axis=1)
        weights = weights_of(len(full), n_resamples, np.random.default_rng([seed, number]))
        for measure, share in (("raw retention", 0.0), ("corrected retention", 1.0)):
            level = share * rights.chance[task]
            kept, whole = weights @ (own - level[:, None]), weights @ (full - level)
            draws = safe_ratio(kept, np.broadcast_to(whole[:, None], kept.shape))
            for i, of_plan in enumerate(draws.T):
                found[i, task, measure] = (*_with_limits(of_plan), len(full))
    rows = [
        (row.arm, row.n_dropped, task, measure, *found[i, task, measure])
        for i, row in enumerate(plans.itertuples())
        for task in rights.tasks
        for measure in ("raw retention", "corrected retention")
    ]
    names = ["arm", "n_dropped", "task", "measure", "value", "low", "high", "n"]
    return pd.DataFrame(rows, columns=names)


def pooled_retention(
    plans: pd.DataFrame,
    rights: Rights,
    *,
    references: Sequence[str] = (),
    seed: int,
    n_resamples: int = 2000,
) -> pd.DataFrame:
    """Retention averaged over tasks, raw and corrected for chance, and how raw differs from other
    arms'.

    Columns: arm, measure (mean raw retention, mean corrected retention, less that of each reference
    arm), value, low, high, n. Questions are drawn anew within each task, the same ones for every
    arm. Without a task there is no estimate (NaN) and no limit.
    """
    n_rows, rows = sum(len(rights.full(task)) for task in rights.tasks), []
    draws = _pooled_draws(plans, rights, seed=seed, n_resamples=n_resamples)
    for (measure, arm), own in draws.items():
        rows.append((arm, f"mean {measure} retention", *_with_limits(own), n_rows))
        for reference in references if measure == "raw" else ():
            if ("raw", reference) in draws and arm != reference:
                gap = _with_limits(own - draws["raw", reference])
                rows.append((arm, f"less that of {reference}", *gap, n_rows))
    return pd.DataFrame(rows, columns=["arm", "measure", "value", "low", "high", "n"])


def _pooled_draws(
    plans: pd.DataFrame, rights: Rights, *, seed: int, n_resamples: int
) -> dict[tuple[str, str], np.ndarray]:
    """Mean retention over tasks, raw and corrected, by (measure, arm): (1 + n_resamples,) each.

    The first is of the rows as they are.
    """
    drops = plans.set_index("arm")["drop"]
    measures = {"raw": 0.0, "corrected": 1.0}  # how much of the chance level is taken off
    nothing = np.full(n_resamples + 1, 0.0 if rights.tasks else np.nan)
    draws = dict.fromkeys(((m, arm) for m in measures for arm in drops.index), nothing)
    for number, task in enumerate(rights.tasks):
        full = rights.full(task)
        weights = weights_of(len(full), n_resamples, np.random.default_rng([seed, number]))
        for measure, share in measures.items():
            level = share * rights.chance[task]
            whole = weights @ (full - level)
            for arm, drop in drops.items():
                own = weights @ (rights.of(plan_name(drop), task) - level)
                found = safe_ratio(own, whole) / len(rights.tasks)
                draws[measure, arm] = draws[measure, arm] + found
    return draws


def weights_of(n: int, n_resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Weights of n rows in their mean, (1 + n_resamples, n): as they are, then in each resample."""
    return resample_counts(n, n_resamples, rng) / n


def _with_limits(draws: np.ndarray) -> tuple[float, float, float]:
    """The first draw, which is the estimate, and the percentiles of the others."""
    return float(draws[0]), *limits(draws[1:])
