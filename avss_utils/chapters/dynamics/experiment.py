"""Notebook 05, table by table: trainings that are followed, and the same with blocks frozen."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd

from avss_utils.chapters.dynamics.fine_tuning import (
    check_methods,
    fine_tune,
    prone_scores,
    weight_movement,
)
from avss_utils.chapters.dynamics.freezing import UNTRAINED
from avss_utils.chapters.dynamics.movement import UNIT, check_choice
from avss_utils.chapters.dynamics.plans_held import PRUNED, chosen, pruned_losses
from avss_utils.chapters.dynamics.stats_callback import (
    COLUMNS,
    FOLLOWED,
    WHOLE,
    Measure,
    StatsCallback,
    log_steps,
)
from avss_utils.chapters.dynamics.tasks import (
    TuningTask,
    judge_rows,
    judged,
    size_table,
    tuning_task,
)
from avss_utils.chapters.opening import Load
from avss_utils.data import calibrations, suites
from avss_utils.data.answer_sets import set_events
from avss_utils.data.loading import check_open
from avss_utils.errors import UsageError
from avss_utils.measure.judging import device_name
from avss_utils.models.plan import as_text, n_to_drop
from avss_utils.store.agreement import checked

ONE_STEP = dict(first_blocks=2, drop_ratio=0.06, question_sets=1, n_training=3, n_development=2)
ONE_STEP |= dict(n_evaluation=2, n_prone=2, steps=1, batch_rows=1, n_looks=2, n_random=0)
FEW_ROWS = dict(n_training=3, n_development=2, n_evaluation=2)
OWN_STATISTICS = ["variance", "relative sparsity", "block-influence", "relative-update-variance"]


def untrained(keys: Sequence[tuple]) -> list[tuple]:
    """Keys of ``freezings`` without a training."""
    return [key for key in keys if key[1] == UNTRAINED]


def one_start(tuned: pd.DataFrame) -> list[bool]:
    """Whether all trainings of a task begin alike, by number, and every number is finite."""
    start = tuned[tuned.step == 0].groupby(["task", "site", "measure", "block"]).value
    alike = start.agg(lambda x: np.ptp(x) <= 1e-3 * np.abs(x).max())
    return [*alike, *np.isfinite(tuned.value)]


def same_rows(frozen: pd.DataFrame) -> pd.Series:
    """Whether every training of a task is judged on this row, by the same tokens."""
    of_row, trained = frozen.groupby(["set", "row_id"]), ["set", "arm", "seed"]
    n_trained = frozen.drop_duplicates(trained).set.value_counts()
    judged_by_all = of_row.nll.transform("size") == frozen.set.map(n_trained)
    right = frozen.correct.isna() | frozen.correct.isin([0, 1])
    one_length = of_row.n_tokens.transform("nunique") == 1
    return judged_by_all & one_length & right & (frozen.nll >= 0)


class Dynamics:
    """What notebook 05 computes from, and how; see ``opening.Inputs``."""

    def __init__(self, load: Load, p: SimpleNamespace) -> None:
        _check(p)
        self.p, self.loaded = p, load()
        self.identity = self.loaded.identity
        self.device = device_name(self.loaded.model)
        sizes = (p.n_training, p.n_development, p.n_evaluation)
        self.tasks, found = {}, []
        sets = dict(questions=p.question_sets, sentiment=p.sentiment_sets, texts=p.text_sets)
        for name, own_sets in sets.items():
            if own_sets:
                made = tuning_task(name, own_sets, self.loaded, sizes=sizes, length=p.length)
                self.tasks[name], identities = made
                found += identities
        self.probe, own = calibrations.calibration_batches(
            self.loaded.tokenizer,
            p.calibration,
            n_texts=p.n_calibration,
            length=p.calibration_length,
            batch_tokens=p.batch_tokens,
        )
        asked = dict(part="development", n_questions=p.n_prone, wording="plain", seed=p.seed)
        prone = [set_events(name, **asked) for name in p.prone_sets]
        self.events = [events for events, _ in prone]
        self.data = [*found, own, *(identity for _, identity in prone)]

    @checked(by="task part")
    def sizes(self) -> pd.DataFrame:
        """``tasks.size_table``: rows, tokens and questions by task and part."""
        return size_table(self.tasks.values())

    @checked(form=one_start)
    @checked(
        by="task method seed step site measure block",
        sizes=ONE_STEP,
        pick="first",
        only=dict(step=[0], measure=OWN_STATISTICS),
        but=dict(value="COUNTED"),
        key="task method seed",
    )
    def tuned(self, key: tuple[str, str, int]) -> pd.DataFrame:
        """Train one (task, method, seed) and keep all that was measured on the way and at its end.

        Columns: UNIT, then those of ``StatsCallback`` (also "weights", "eavss", development loss
        and accuracy; at the last step evaluation loss and accuracy), criterion, when, drop. The
        last three say under which plan a "pruned loss" is (``plans_held``); "" elsewhere.
        """
        (name, method, seed), p = key, self.p
        task = self.tasks[name]
        with TemporaryDirectory() as folder:
            callback = StatsCallback(
                self.probe,
                Path(folder) / "rows.csv",
                steps=looks(p.steps, p.n_looks),
                eps=p.eps,
                ratio=p.relative_eps,
                measures=self._measures(task),
            )
            training = dict(**self._training(method, seed), callbacks=[callback])
            tuned, rows = fine_tune(self.loaded, task.training.rows, **training), callback.table()
        part, sizes = task.evaluation, dict(batch_tokens=p.batch_tokens)
        ends = judged(tuned.model, tuned.tokenizer, part, prefix="evaluation", **sizes)
        n_drop = n_to_drop(self.identity["n_blocks"], ratio=p.drop_ratio)
        plans = chosen(rows, FOLLOWED, n_drop=n_drop)
        drawn = dict(n_drop=n_drop, n_random=p.n_random, seed=seed)
        pruned = pruned_losses(tuned, part, plans, **drawn, **sizes).assign(measure=PRUNED)
        last = pd.DataFrame({"measure": list(ends), "value": list(ends.values())})
        last = pd.concat([last, pruned.rename(columns={"loss": "value"})])
        last = last.assign(step=rows.step.max(), block=WHOLE, site="")
        table = pd.concat([rows, last], ignore_index=True)
        table = table.fillna({"criterion": "", "when": "", "drop": ""})
        table = table.assign(task=name, method=method, seed=seed)
        return table[[*UNIT, *COLUMNS, "criterion", "when", "drop"]]

    @checked(form=same_rows)
    @checked(
        by="set seed arm row_id",
        sizes=FEW_ROWS,
        pick=lambda keys: untrained(keys)[1:],
        numbers="DIFFERENCE",
    )
    @checked(
        by="set seed arm row_id",
        sizes=FEW_ROWS,
        pick=lambda keys: untrained(keys)[:1],
        numbers="DIFFERENCE",
        key="set seed arm frozen",
    )
    def frozen(self, key: tuple[str, int, str, tuple[int, ...]]) -> pd.DataFrame:
        """Train one (task, seed, arm, frozen blocks) and judge it on every evaluation row.

        Columns: arm, seed, set (the task), row_id, frozen, n_tokens, nll, correct, as of
        ``tasks.judge_rows``. Seed UNTRAINED: the model as it was.
        """
        name, seed, arm, frozen = key
        task, tuned = self.tasks[name], self.loaded
        if seed != UNTRAINED:
            training = self._training(self.p.frozen_method, seed)
            tuned = fine_tune(tuned, task.training.rows, frozen=frozen, **training)
        options = dict(batch_tokens=self.p.batch_tokens)
        rows = judge_rows(tuned.model, tuned.tokenizer, task.evaluation, **options)
        rows = rows.assign(arm=arm, seed=seed, set=name, frozen=as_text(frozen))
        return rows[["arm", "seed", "set", "row_id", "frozen", "n_tokens", "nll", "correct"]]

    def _training(self, method: str, seed: int) -> dict[str, Any]:
        """Keywords of ``fine_tune``."""
        p = self.p
        schedule = dict(steps=p.steps, batch_rows=p.batch_rows, seed=seed)
        rate = {"full": p.full_rate, "lora": p.lora_rate}[method]
        return dict(method=method, rank=p.lora_rank, learning_rate=rate, **schedule)

    def _measures(self, task: TuningTask) -> list[Measure]:
        """What a training is followed by beside the probe's statistics."""
        tokenizer, sizes = self.loaded.tokenizer, dict(batch_tokens=self.p.batch_tokens)
        own: dict[str, Any] = dict(tokenizer=tokenizer, part=task.development, **sizes)
        floors = dict(eps=self.p.eps, ratio=self.p.relative_eps)
        return [
            partial(judged, prefix="development", **own),
            weight_movement(self.loaded.model),
            prone_scores(tokenizer, self.events, **floors, **sizes),
        ]


def looks(steps: int, n: int) -> list[int]:
    """Steps at which a training is looked at, ``n`` at most.

    After step 1 nothing has moved, for the warm-up begins at a rate of 0.
    """
    return [step for step in log_steps(steps, n) if step != 1 or steps == 1]


def split_seeds(seed: int, n_seeds: int, n_choosing: int) -> tuple[list[int], list[int]]:
    """Seeds that blocks are chosen by, and others that judge the choice.

    Raises UsageError where one of both would be none.
    """
    seeds = list(range(seed, seed + n_seeds))
    if not 0 < n_choosing < n_seeds:
        raise UsageError(
            "freezing needs one seed or more to choose blocks by and others to judge by: take 2 "
            "seeds at least"
        )
    return seeds[:n_choosing], seeds[n_choosing:]


def trainings(
    tasks: Sequence[str], methods: Sequence[str], *, seeds: Sequence[int]
) -> list[tuple[str, str, int]]:
    """(task, method, seed), seed by seed, so that an interrupted run has all of them once first."""
    return [(task, method, seed) for seed in seeds for task in tasks for method in methods]


def _check(p: SimpleNamespace) -> None:
    """Raise UsageError for parameters that cannot be, before anything is loaded."""
    check_methods(p.methods)
    split_seeds(p.seed, p.n_seeds, p.n_choosing_seeds)
    looks(p.steps, p.n_looks)
    check_choice(p.moved_by, p.frozen_method, p.methods)
    tasks = [*p.question_sets, *p.sentiment_sets]
    suites.check_names(tasks=tasks, text_sets=p.text_sets, calibration=p.calibration)
    if p.calibration in p.text_sets:
        raise UsageError(
            f"{p.calibration!r} cannot be both trained on and probed: choose another set"
        )
    for name in p.prone_sets:
        check_open(name)
