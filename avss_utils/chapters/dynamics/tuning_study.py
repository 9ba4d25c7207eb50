"""Every fine-tuning followed and judged the same way: tidy rows, a training a key."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

from avss_utils.chapters.dynamics.fine_tuning import Recipe, fine_tune
from avss_utils.chapters.dynamics.movement import UNIT, WEIGHTS
from avss_utils.chapters.dynamics.movement_plans import chosen, pruned_losses
from avss_utils.chapters.dynamics.tasks import TuningTask, judged
from avss_utils.chapters.dynamics.tidy_rows import FOLLOWED, SITES, WHOLE, Measure
from avss_utils.chapters.dynamics.weight_movement import weight_movement
from avss_utils.errors import UsageError
from avss_utils.models.load import LoadedModel

PRUNED = "pruned loss"
KEYS = ["step", "site", "measure"]
MEASURES = ("variance", "relative sparsity", "sparsity")
SCORES = (*(f"{site} {m}" for site in SITES for m in MEASURES), *FOLLOWED, "eavss", WEIGHTS)


@dataclass(frozen=True)
class Watch:
    """What every training is followed by.

    ``probe``: batches that statistics are taken on; ``steps``: optimiser steps at which they are;
    ``n_drop``: blocks that a pruning plan removes, ``n_random`` random plans beside; ``measures``:
    further ones, see ``StatsCallback``.
    """

    probe: Sequence[dict]
    steps: Sequence[int]
    eps: float
    ratio: float
    n_drop: int
    n_random: int
    batch_tokens: int
    criteria: Sequence[str] = FOLLOWED
    measures: Sequence[Measure] = ()


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


def check_probe(probe: str, sets: Sequence[str]) -> None:
    """Raise UsageError where statistics would be taken on a set that is trained on."""
    if probe in sets:
        raise UsageError(f"{probe!r} cannot be both trained on and probed: choose another set")


def trainings(
    tasks: Sequence[TuningTask], methods: Sequence[str], *, seeds: Sequence[int]
) -> list[tuple[TuningTask, str, int]]:
    """(task, method, seed), seed by seed, so that an interrupted run has all of them once first."""
    return [(t, m, seed) for seed in seeds for t in tasks for m in methods]


def tuned_rows(
    loaded: LoadedModel,
    watch: Watch,
    recipes: Mapping[str, Recipe],
    one: tuple[TuningTask, str, int],
) -> pd.DataFrame:
    """Fine-tune one of ``trainings`` and return all that was measured on the way and at its end.

    Columns: UNIT, step, site, measure, values (of all blocks in order, six digits each, or one of
    the whole model), criterion, when, drop. Beside the measures of ``StatsCallback`` (with
    "weights", development loss and accuracy) the last step has evaluation loss and accuracy, and
    rows of the measure "pruned loss", of which the last three columns say by which plan
    (``plans.pruned_losses``; "" elsewhere).
    """
    from avss_utils.chapters.dynamics.stats_callback import StatsCallback

    task, method, seed = one
    with TemporaryDirectory() as folder:
        callback = StatsCallback(
            watch.probe,
            Path(folder) / "rows.csv",
            steps=watch.steps,
            eps=watch.eps,
            ratio=watch.ratio,
            criteria=watch.criteria,
            measures=[*_own_measures(loaded, task, watch.batch_tokens), *watch.measures],
        )
        options = dict(seed=seed, callbacks=[callback])
        tuned = fine_tune(loaded, task.training.rows, recipes[method], **options)
        rows = callback.table()
    last = _last_rows(tuned, task, watch, rows, seed=seed)
    table = pd.concat([_packed(rows), last.assign(step=rows.step.max(), site="")])
    table = table.fillna({"criterion": "", "when": "", "drop": ""})
    table = table.assign(task=task.name, method=method, seed=seed)
    return table[[*UNIT, *KEYS, "values", "criterion", "when", "drop"]].reset_index(drop=True)


def _packed(rows: pd.DataFrame) -> pd.DataFrame:
    """A row a step, site and measure: a row a block would make the record too large to keep."""
    ordered = rows.sort_values("block", kind="stable").assign(
        values=rows.value.map("{:.6g}".format)
    )
    return ordered.groupby(KEYS, sort=False)["values"].agg(" ".join).reset_index()


def statistics_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of ``StatsCallback`` again, with the columns UNIT: what ``movement`` takes."""
    own = rows[rows.measure != PRUNED].drop(columns=["criterion", "when", "drop"])
    cells = own["values"].astype(str).str.split()
    whole = cells.str.len() == 1
    long = own.assign(value=cells, block=cells.map(lambda c: list(range(len(c)))))
    long = long.drop(columns="values").explode(["block", "value"], ignore_index=True)
    long["block"] = long.block.where(~whole.repeat(cells.str.len()).to_numpy(), WHOLE).astype(int)
    return long.assign(value=long.value.astype(float))


def _own_measures(loaded: LoadedModel, task: TuningTask, batch_tokens: int) -> list[Measure]:
    development = partial(
        judged,
        tokenizer=loaded.tokenizer,
        part=task.development,
        prefix="development",
        batch_tokens=batch_tokens,
    )
    return [development, weight_movement(loaded.model)]


def _last_rows(
    tuned: LoadedModel, task: TuningTask, watch: Watch, rows: pd.DataFrame, *, seed: int
) -> pd.DataFrame:
    """measure, values, criterion, when, drop of the trained model on evaluation rows."""
    part, sizes = task.evaluation, dict(batch_tokens=watch.batch_tokens)
    found = judged(tuned.model, tuned.tokenizer, part, prefix="evaluation", **sizes)
    own = pd.DataFrame({"measure": list(found), "values": list(found.values())})
    plans = chosen(rows, watch.criteria, n_drop=watch.n_drop)
    numbers = dict(n_drop=watch.n_drop, n_random=watch.n_random, seed=seed)
    pruned = pruned_losses(tuned, part, plans, **numbers, **sizes)
    pruned = pruned.rename(columns={"loss": "values"}).assign(measure=PRUNED)
    table = pd.concat([own, pruned], ignore_index=True)
    return table.assign(values=table["values"].map("{:.6g}".format))


def budget(
    record: dict, sizes: pd.DataFrame, *, trainings: int, freezings: int, n_steps: int
) -> pd.DataFrame:
    """What a run spent: part, count, tokens of training and tokens of looking (both in millions,
    padding left out), seconds.

    ``n_steps``: at how many of the steps a training is followed. A training token is one forward
    and one backward pass; looking is forward passes over the probe and the development rows, and
    over the evaluation rows at the end; choices and plans come on top.
    """
    wanted = record["parameters"]
    of_part = sizes.groupby("part")[["rows", "tokens"]].sum()
    row_tokens = of_part.tokens / of_part.rows
    n_tasks = sizes.task.nunique()
    trained = wanted["steps"] * wanted["batch_rows"] * row_tokens["training"] / 1e6
    probe = wanted["n_calibration"] * wanted["calibration_length"]
    looked = n_steps * (probe + of_part.tokens["development"] / n_tasks)
    judged = of_part.tokens["evaluation"] / n_tasks
    rows = [
        ("followed trainings", trainings, (looked + judged) / 1e6, record["seconds"]["tuned"]),
        ("trainings with frozen blocks", freezings, judged / 1e6, record["seconds"]["frozen"]),
    ]
    table = pd.DataFrame(rows, columns=["part", "count", "looking", "seconds"])
    table.insert(2, "training", table["count"] * trained)
    return table.assign(looking=table["count"] * table.looking)


def outcomes(rows: pd.DataFrame) -> pd.DataFrame:
    """Losses and accuracies before the first step and after the last, means over seeds.

    ``rows``: of ``statistics_rows``. A row a task, method and measure; NaN where not looked at.
    """
    own = rows[rows.block == WHOLE]
    own = own[own.measure.str.endswith((" loss", " accuracy"))]
    last = own.step.max()
    own = own[own.step.isin([0, last])].assign(when=own.step.map({0: "before", last: "after"}))
    table = own.pivot_table(
        index=["task", "method", "measure"], columns="when", values="value", sort=False
    )
    return table[["before", "after"]].rename_axis(columns=None).reset_index()


def plan_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """UNIT, criterion, when, drop, loss of ``tuned_rows``: what ``plans`` compares."""
    own = rows[rows.measure == PRUNED]
    own = own.assign(loss=own["values"].astype(float))
    return own[[*UNIT, "criterion", "when", "drop", "loss"]].reset_index(drop=True)
