"""Does a block that moved need to move? The same training with some blocks frozen."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from avss_utils.chapters.dynamics.movement import thirds
from avss_utils.models.plan import as_drop
from avss_utils.scores.plans import plan_random
from avss_utils.stats.outcomes import Measure, OutcomeTable
from avss_utils.stats.paired import arm_draws, as_estimate
from avss_utils.stats.resampling import N_RESAMPLES, Estimate, resample_counts, safe_ratio

NONE, MOST, LEAST, RANDOM, START = "none", "most moved", "least moved", "random", "untrained"
UNTRAINED = -1  # the seed of the model as it was
LOSS, CHOICE = "loss", "accuracy"
MEAN = "mean over tasks"
# A value and what it is divided by: nats per token, and the share of right choices.
MEASURES = {LOSS: ("nll", "n_tokens"), CHOICE: ("correct", "asked")}


def freezings(
    movements: Mapping[str, np.ndarray], *, seeds: Sequence[int], n_random: int, seed: int
) -> list[tuple[str, int, str, tuple[int, ...]]]:
    """(task, seed, arm, frozen blocks): each task's untrained model, then every arm seed by seed.

    ``movements``: (n_blocks,) by task, of seeds other than ``seeds``. Arms: none frozen, the third
    that moved most, the third that moved least, and ``n_random`` random sets of as many blocks,
    drawn from all of them, the same for every seed.
    """
    rng = np.random.default_rng(seed)
    arms: list[tuple[str, str, tuple[int, ...]]] = []
    for task, movement in movements.items():
        most, least = thirds(movement)
        arms += [(task, NONE, ()), (task, MOST, most), (task, LEAST, least)]
        for number in range(n_random):
            drawn = plan_random(len(movement), n_drop=len(most), rng=rng)
            arms.append((task, f"{RANDOM} {number}", drawn.drop))
    start = [(task, UNTRAINED, START, ()) for task in movements]
    return start + [(task, number, arm, drop) for number in seeds for task, arm, drop in arms]


def ratio_of(values: np.ndarray, sizes: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The sum of one measure over that of another, as a ``paired.Statistic``."""
    return safe_ratio(weights @ values, weights @ sizes)


class Frozen:
    """What ``Dynamics.frozen`` has measured: its ``tasks``, ``arms``, and the frozen blocks by
    (task, arm), ``sets``. The arm RANDOM is the mean of all random sets, seed by seed and row by
    row.
    """

    def __init__(self, rows: pd.DataFrame) -> None:
        asked = rows.correct.notna().astype(float)
        self._outcomes = OutcomeTable(rows.assign(asked=asked, correct=rows.correct.fillna(0.0)))
        self.tasks, self.arms = self._outcomes.sets(), self._outcomes.arms
        first = rows.drop_duplicates(["set", "arm"])
        self.sets = {(row.set, row.arm): as_drop(row.frozen) for row in first.itertuples()}
        drawn = [arm for arm in self.arms if arm.startswith(f"{RANDOM} ")]
        columns = [(task, name) for task in self.tasks for own in MEASURES.values() for name in own]
        if drawn:
            of = self._outcomes.of
            pooled: dict[tuple[str, Measure], np.ndarray] = {
                key: np.mean([of(arm, *key) for arm in drawn], axis=0) for key in columns
            }
            self._outcomes.add(RANDOM, pooled)

    def n_rows(self, task: str, kind: str) -> int:
        """How many rows of a task have this kind of outcome, LOSS or CHOICE."""
        sizes = self._outcomes.of(self.arms[0], task, MEASURES[kind][1])
        return int((sizes[0] > 0).sum())

    def mean(self, task: str, kind: str, arm: str) -> float:
        """Nats a token, or share of right choices, of an arm over its seeds and rows; NaN without
        any.
        """
        values, sizes = (self._outcomes.of(arm, task, name) for name in MEASURES[kind])
        return float(ratio_of(values.mean(0), sizes.mean(0), np.ones((1, values.shape[1])))[0])

    def difference(
        self,
        arm: str,
        reference: str,
        *,
        kind: str = LOSS,
        tasks: Iterable[str] | None = None,
        rng: np.random.Generator,
        n_resamples: int = N_RESAMPLES,
    ) -> Estimate:
        """Mean of ``arm`` less that of ``reference``, averaged over tasks, with a 95 % interval.

        Each resample draws rows within every task and seeds, which order the same rows alike for
        both arms and so are drawn for both together, the same ones in all tasks. n: rows. Tasks
        without outcomes of this kind do not enter; NaN, and n = 0, where none has any.
        """
        names = [task for task in tasks or self.tasks if self.n_rows(task, kind)]
        if not names:
            return Estimate(np.nan, np.nan, np.nan, 0)
        pair, draws = f"{arm} less {reference}", np.zeros(1 + n_resamples)
        order_of_seeds = int(rng.integers(2**32))
        for task in names:
            value, size = MEASURES[kind]
            own, other = (self._outcomes.of(x, task, value) for x in (arm, reference))
            gap = own - other  # an untrained model has one seed, beside each of the others
            n_of = np.broadcast_to(self._outcomes.of(arm, task, size)[:1], gap.shape)
            self._outcomes.add(pair, {(task, value): gap, (task, size): n_of})
            weights = resample_counts(self._outcomes.of(arm, task).shape[1], n_resamples, rng)
            seeds = np.random.default_rng(order_of_seeds)
            draws += arm_draws(
                self._outcomes, pair, task, MEASURES[kind], ratio_of, weights=weights, rng=seeds
            ) / len(names)
        return as_estimate(draws, sum(self.n_rows(task, kind) for task in names))

    def differences(
        self, pairs: Iterable[tuple[str, str]], *, kind: str = LOSS, seed: int
    ) -> pd.DataFrame:
        """One row per pair of arms and task, and one over all tasks (MEAN); none without outcomes.

        Columns: arm, reference, task, value, low, high, n.
        """
        rows = []
        for arm, reference in pairs:
            for task in (*self.tasks, MEAN):
                own, rng = None if task == MEAN else [task], np.random.default_rng(seed)
                e = self.difference(arm, reference, kind=kind, tasks=own, rng=rng)
                rows.append((arm, reference, task, e.value, e.low, e.high, e.n))
        columns = ["arm", "reference", "task", "value", "low", "high", "n"]
        table = pd.DataFrame(rows, columns=columns)
        return table[table.n > 0].reset_index(drop=True)


def arm_table(frozen: Frozen, movements: Mapping[str, np.ndarray], *, seed: int) -> pd.DataFrame:
    """One row per task and arm: moved, loss (nats a token), accuracy, lost, and the loss less that
    of training with nothing frozen (value, low, high, n).

    ``movements``: (n_blocks,) by task; ``moved``: its mean over the frozen blocks; ``lost``: the
    difference as a share of what training with nothing frozen gains, NaN where the interval of
    that does not lie above 0.
    """
    rng, rows = np.random.default_rng(seed), []
    for task, arm in frozen.sets:
        blocks = list(frozen.sets[task, arm])
        moved = movements[task][blocks].mean() if blocks else np.nan
        means = [frozen.mean(task, kind, arm) for kind in (LOSS, CHOICE)]
        e = frozen.difference(arm, NONE, tasks=[task], rng=rng)
        rows.append((task, arm, moved, *means, e.value, e.low, e.high, e.n))
    names = ["task", "arm", "moved", "loss", "accuracy", "value", "low", "high", "n"]
    table = pd.DataFrame(rows, columns=names)
    gains = table[(table.arm == START) & (table.low > 0)].set_index("task").value
    table.insert(names.index("value"), "lost", table.value / table.task.map(gains))
    return table.sort_values("task", key=lambda t: t.map(frozen.tasks.index), kind="stable")
