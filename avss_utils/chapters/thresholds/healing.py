"""A short training after removal, the same for every arm, and what it gives back."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from avss_utils.data.suites import Suite
from avss_utils.data.token_rows import Scored
from avss_utils.data.windows import Window
from avss_utils.measure.judging import for_evaluation, judge_texts
from avss_utils.measure.training import adapted, train_on
from avss_utils.models.blocks import remove_blocks
from avss_utils.scores.rights import Rights, as_numbers, plan_name, plans_to_judge, right_rows
from avss_utils.stats.retention import BASELINE

AS_IT_WAS = "full, as it was"


@dataclass(frozen=True)
class Recipe:
    """Low-rank adapters on every linear layer of every remaining block, base weights frozen.

    ``steps`` of ``batch_rows`` windows each; AdamW at ``learning_rate`` after a tenth of warm-up,
    then down along a cosine; adapters of ``rank`` with alpha twice the rank (Hu et al. 2021,
    arXiv 2106.09685).
    """

    steps: int
    batch_rows: int
    rank: int
    learning_rate: float


def heal(loaded, drop: Sequence[int], windows: Sequence[Window], recipe: Recipe, *, seed: int):
    """The model without ``drop``, trained on ``windows``, its adapters merged into its weights.

    Weights stay in float32; where the device computes bfloat16 natively, passes run in it. The
    given model is left as it is. ``seed`` decides the adapters' start and the order of the windows.
    """
    pruned = copy.deepcopy(remove_blocks(loaded.model, drop, share_weights=True)).float()
    model = adapted(pruned, rank=recipe.rank, alpha=2 * recipe.rank, seed=seed)
    train_on(
        model,
        [Scored.window(window) for window in windows],
        steps=recipe.steps,
        batch_rows=recipe.batch_rows,
        learning_rate=recipe.learning_rate,
        seed=seed,
    )
    return replace(loaded, model=model.merge_and_unload().eval())


def with_unpruned(plans: pd.DataFrame) -> pd.DataFrame:
    """Plans (arm, n_dropped, drop), the unpruned model before them."""
    first = pd.DataFrame({"arm": [BASELINE], "n_dropped": [0], "drop": ["-"]})
    return pd.concat([first, plans], ignore_index=True)


def healing_arms(plans: pd.DataFrame, *, n_seeds: int) -> list[tuple[str, tuple[int, ...], int]]:
    """(plan's name, removed blocks, seed): the unpruned model and every distinct plan, each seed.

    Seed by seed, so that an interrupted run has every plan once first.
    """
    return [(*arm, seed) for seed in range(n_seeds) for arm in plans_to_judge(plans)]


def healed_rows(
    loaded,
    suite: Suite,
    windows: Sequence[Window],
    recipe: Recipe,
    dtype: str,
    arm: tuple[str, tuple[int, ...], int],
) -> pd.DataFrame:
    """Heal one of ``healing_arms`` and judge it: arm, seed, set, right, nll, n_bytes.

    A row a task has ``right`` as ``right_rows`` writes it, a row a text set its nats and bytes.
    """
    name, drop, seed = arm
    judged = for_evaluation(heal(loaded, drop, windows, recipe, seed=seed), dtype)
    answers = right_rows(judged, suite, (name, ())).rename(columns={"task": "set"})
    texts = judge_texts(judged, suite, (name, ()))
    texts = texts.groupby("text_set", sort=False)[["nll", "n_bytes"]].sum()
    texts = texts.rename_axis("set").reset_index().assign(arm=name)
    table = pd.concat([answers, texts], ignore_index=True).assign(seed=seed)
    return table[["arm", "seed", "set", "right", "nll", "n_bytes"]]


def healed_rights(healed: pd.DataFrame, before: Rights, *, control: bool) -> Rights:
    """Shares of seeds that answer each question right, against the unpruned model.

    That is the model as it was, or with ``control`` the unpruned model after the same training.
    """
    by: dict[tuple[str, str], np.ndarray] = {}
    for (arm, task), own in healed.dropna(subset="right").groupby(["arm", "set"], sort=False):
        by[arm, task] = np.mean([as_numbers(right) for right in own.right], axis=0)
    by |= {(AS_IT_WAS, task): before.full(task) for task in before.tasks}
    return before.instead(by, baseline=BASELINE if control else AS_IT_WAS)


def healed_bits(healed: pd.DataFrame, plans: pd.DataFrame) -> pd.DataFrame:
    """Bits per byte of the plans' texts: arm, set, value (mean over seeds), low, high (range), n.

    n is the number of seeds.
    """
    texts = healed.dropna(subset="nll")
    bits = texts.nll / np.log(2) / texts.n_bytes
    found = bits.groupby([texts.arm, texts["set"]], sort=False).agg(["mean", "min", "max", "count"])
    found = found.set_axis(["value", "low", "high", "n"], axis=1).reset_index()
    named = plans[["arm"]].assign(plan=plans["drop"].map(plan_name))
    return named.merge(found.rename(columns={"arm": "plan"}), on="plan").drop(columns="plan")
