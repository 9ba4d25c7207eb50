"""Does a block that moved need to move? The same training with some blocks frozen."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from avss_utils.chapters.dynamics.fine_tuning import Recipe, fine_tune
from avss_utils.chapters.dynamics.movement import thirds
from avss_utils.chapters.dynamics.tasks import Part, TuningTask, right_choices, row_losses
from avss_utils.errors import UsageError
from avss_utils.models.load import LoadedModel
from avss_utils.models.plan import as_drop, as_text
from avss_utils.scores.plans import plan_random
from avss_utils.stats.resampling import N_RESAMPLES, Estimate, limits

NONE, MOST, LEAST, RANDOM, START = "none", "most moved", "least moved", "random", "untrained"
LOSS, CHOICE = "loss", "choice"


@dataclass(frozen=True)
class Freezing:
    """One training of ``task`` with the blocks ``frozen``; seed None: the model as it was."""

    task: TuningTask
    seed: int | None
    arm: str
    frozen: tuple[int, ...]


def freezings(
    tasks: Sequence[TuningTask],
    movements: Sequence[np.ndarray],
    *,
    seeds: Sequence[int],
    n_random: int,
    seed: int,
) -> list[Freezing]:
    """The untrained model of each task, then every arm of every task, seed by seed.

    ``movements``: (n_blocks,) by task, of seeds other than ``seeds``. Arms: none frozen, the third
    that moved most, the third that moved least, and ``n_random`` random sets of as many blocks,
    drawn from all of them, the same for every seed.
    """
    found = [Freezing(task, None, START, ()) for task in tasks]
    rng = np.random.default_rng(seed)
    arms = []
    for task, movement in zip(tasks, movements, strict=True):
        most, least = thirds(movement)
        sets = {NONE: (), MOST: most, LEAST: least}
        for number in range(n_random):
            drawn = plan_random(len(movement), n_drop=len(most), rng=rng)
            sets[f"{RANDOM} {number}"] = drawn.drop
        arms.append((task, sets))
    for number in seeds:
        found += [
            Freezing(task, number, arm, drop) for task, sets in arms for arm, drop in sets.items()
        ]
    return found


def check_seeds(moving: Sequence[int], judging: Sequence[int]) -> None:
    """Raise UsageError unless blocks are chosen on other seeds than those that judge the choice."""
    if not moving or not judging or set(moving) & set(judging):
        raise UsageError(
            "freezing needs one seed or more to choose blocks by and others to judge by: take 2 "
            "seeds at least"
        )


def freezing_rows(
    loaded: LoadedModel, recipe: Recipe, batch_tokens: int, one: Freezing
) -> pd.DataFrame:
    """Train one of ``freezings`` and judge it on evaluation rows.

    Columns: task, seed (-1 for the untrained model), arm, frozen, kind, row, value, weight. Of kind
    "loss" a row an evaluation row: nats, and the tokens behind them; of kind "choice" a row a
    question: 1 where it is right, weight 1.
    """
    tuned = loaded
    if one.seed is not None:
        rows = one.task.training.rows
        tuned = fine_tune(loaded, rows, recipe, seed=one.seed, frozen=one.frozen)
    part = one.task.evaluation
    table = pd.DataFrame(
        _outcomes(tuned, part, batch_tokens), columns=["kind", "row", "value", "weight"]
    )
    seed = -1 if one.seed is None else one.seed
    named = table.assign(task=one.task.name, seed=seed, arm=one.arm, frozen=as_text(one.frozen))
    return named[["task", "seed", "arm", "frozen", *table.columns]]


def _outcomes(tuned: LoadedModel, part: Part, batch_tokens: int) -> Iterator[tuple]:
    losses = row_losses(tuned.model, part, batch_tokens=batch_tokens)
    for number, (nll, row) in enumerate(zip(losses, part.rows, strict=True)):
        yield LOSS, number, float(nll), row.n_scored
    right = right_choices(tuned.model, tuned.tokenizer, part, batch_tokens=batch_tokens)
    for number, value in enumerate(right):
        yield CHOICE, number, float(value), 1


class Frozen:
    """Outcomes by task, kind and arm, (n_seeds, n_rows), what each row weighs, and the frozen
    blocks by task and arm.
    """

    def __init__(self, rows: pd.DataFrame) -> None:
        self.tasks, self.arms = list(rows.task.unique()), list(rows.arm.unique())
        arms = rows.drop_duplicates(["task", "arm"])
        self.sets = {(row.task, row.arm): as_drop(row.frozen) for row in arms.itertuples()}
        self.values, self.weights = {}, {}
        for (task, kind, arm), own in rows.groupby(["task", "kind", "arm"], sort=False):
            each = own.pivot(index="seed", columns="row", values="value")
            self.values[task, kind, arm] = each.to_numpy()
            weights = own[own.seed == own.seed.iloc[0]].sort_values("row").weight
            self.weights[task, kind] = weights.to_numpy(float)

    def matching(self, arm: str) -> list[str]:
        """The arms of this name, or all random sets for "random"."""
        return [a for a in self.arms if a == arm or a.startswith(f"{arm} ")]

    def mean(self, task: str, kind: str, arm: str, drawn: tuple | None = None) -> float:
        """Nats a token, or share of right choices, of an arm over its seeds and rows.

        ``drawn``: numbers of seeds and of rows to take instead of all of them.
        """
        weights = self.weights[task, kind]
        found = []
        for name in self.matching(arm):
            own = self.values[task, kind, name]
            if drawn is not None:
                own = own[drawn[0] % len(own)][:, drawn[1]]
            own_weights = weights if drawn is None else weights[drawn[1]]
            found.append(own.sum() / (len(own) * own_weights.sum()))
        return float(np.mean(found))

    def difference(
        self,
        arm: str,
        reference: str,
        *,
        kind: str = LOSS,
        tasks: Sequence[str] | None = None,
        rng: np.random.Generator,
        n_resamples: int = N_RESAMPLES,
    ) -> Estimate:
        """Mean of ``arm`` less that of ``reference``, averaged over tasks, with a 95 % interval.

        Each resample draws seeds and, within every task, rows: the same for both. n: rows. Tasks
        without rows of this kind do not enter; NaN, and n = 0, where none has any.
        """
        tasks = [t for t in tasks or self.tasks if (t, kind) in self.weights]
        if not tasks:
            return Estimate(np.nan, np.nan, np.nan, 0)
        n_seeds = max(len(own) for own in self.values.values())

        def gap(drawn: dict | None) -> float:
            at = (drawn or {}).get
            return float(
                np.mean(
                    [
                        self.mean(t, kind, arm, at(t)) - self.mean(t, kind, reference, at(t))
                        for t in tasks
                    ]
                )
            )

        draws = []
        for _ in range(n_resamples):
            seeds = rng.integers(0, n_seeds, n_seeds)
            sizes = {t: len(self.weights[t, kind]) for t in tasks}
            draws.append(gap({t: (seeds, rng.integers(0, n, n)) for t, n in sizes.items()}))
        n_rows = sum(len(self.weights[t, kind]) for t in tasks)
        return Estimate(gap(None), *limits(np.array(draws)), n_rows)


def arm_table(
    frozen: Frozen, movements: Mapping[str, np.ndarray], *, rng: np.random.Generator
) -> pd.DataFrame:
    """A row a task and arm: moved, loss (nats a token), accuracy, lost, and the loss less that of
    training with nothing frozen (value, low, high, n).

    ``movements``: (n_blocks,) by task; ``moved``: its mean over the frozen blocks; ``lost``: the
    difference as a share of what training with nothing frozen gains, NaN where the interval of
    that does not lie above 0.
    """
    rows = []
    for task, arm in frozen.sets:
        e = frozen.difference(arm, NONE, tasks=[task], rng=rng)
        blocks = list(frozen.sets[task, arm])
        moved = movements[task][blocks].mean() if blocks else np.nan
        accuracy = frozen.mean(task, CHOICE, arm) if (task, CHOICE) in frozen.weights else np.nan
        loss = frozen.mean(task, LOSS, arm)
        rows.append((task, arm, moved, loss, accuracy, e.value, e.low, e.high, e.n))
    names = ["task", "arm", "moved", "loss", "accuracy", "value", "low", "high", "n"]
    table = pd.DataFrame(rows, columns=names)
    gains = table[(table.arm == START) & (table.low > 0)].set_index("task").value
    table.insert(names.index("value"), "lost", table.value / table.task.map(gains))
    return table.sort_values("task", key=lambda t: t.map(frozen.tasks.index), kind="stable")
