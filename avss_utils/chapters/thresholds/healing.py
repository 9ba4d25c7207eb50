"""A short training after removal, the same for every arm, and what it gives back."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from avss_utils.data.token_rows import Scored
from avss_utils.data.windows import Window
from avss_utils.measure.adapters import adapted
from avss_utils.measure.training import train_on
from avss_utils.models.blocks import remove_blocks
from avss_utils.models.load import LoadedModel
from avss_utils.scores.arms import plans_to_judge
from avss_utils.stats.outcomes import OutcomeTable
from avss_utils.stats.retention import BASELINE, plan_name, pooled_retention

AS_IT_WAS = "full, as it was"
HealedArm = tuple[str, int, tuple[int, ...]]


def heal(
    loaded: LoadedModel,
    drop: Sequence[int],
    windows: Sequence[Window],
    *,
    rank: int,
    seed: int,
    **training: Any,
) -> LoadedModel:
    """The model without ``drop``, trained on ``windows``, its adapters merged into its weights.

    Adapters of ``rank``, with alpha twice the rank, on every linear layer of every remaining block,
    base weights frozen; ``training``: steps, batch_rows and learning_rate of ``train_on``. Weights
    stay in float32; where the device computes bfloat16 natively, passes run in it. The given model
    is left as it is. ``seed`` decides the adapters' start and the order of the windows.
    """
    pruned = copy.deepcopy(remove_blocks(loaded.model, drop, share_weights=True)).float()
    model = adapted(pruned, rank=rank, alpha=2 * rank, seed=seed)
    train_on(model, [Scored.window(window) for window in windows], seed=seed, **training)
    return replace(loaded, model=model.merge_and_unload().eval())


def healing_arms(plans: pd.DataFrame, *, n_seeds: int) -> list[HealedArm]:
    """(plan's name, seed, removed blocks): the unpruned model and every distinct plan, each seed.

    Seed by seed, so that an interrupted run has every plan once first.
    """
    return [(arm, seed, drop) for seed in range(n_seeds) for arm, drop in plans_to_judge(plans)]


def with_unpruned(plans: pd.DataFrame) -> pd.DataFrame:
    """Plans (arm, n_dropped, drop), the unpruned model before them."""
    first = pd.DataFrame({"arm": [BASELINE], "n_dropped": [0], "drop": ["-"]})
    return pd.concat([first, plans], ignore_index=True)


def healed_outcomes(answers: pd.DataFrame, healed: pd.DataFrame) -> OutcomeTable:
    """Answers of the healed arms, and beside them AS_IT_WAS: the unpruned model before training."""
    before = answers[answers.arm == BASELINE].assign(arm=AS_IT_WAS, seed=0)
    return OutcomeTable(pd.concat([before, healed], ignore_index=True))


def recovery(
    plans: pd.DataFrame,
    answers: pd.DataFrame,
    healed: pd.DataFrame,
    *,
    sets: Sequence[str],
    seed: int,
) -> pd.DataFrame:
    """``pooled_retention`` of plans before healing, after it, and against the unpruned model after
    the same training, by column ``stage``; shares of a question are means over training seeds.
    """
    before, after = OutcomeTable(answers), healed_outcomes(answers, healed)
    stages = {
        "unhealed": (before, BASELINE),
        "healed": (after, AS_IT_WAS),
        "healed, of the healed full model": (after, BASELINE),
    }
    parts = [
        pooled_retention(plans, own, sets=sets, baseline=baseline, seed=seed).assign(stage=stage)
        for stage, (own, baseline) in stages.items()
    ]
    return pd.concat(parts, ignore_index=True)


def healed_bits(texts: pd.DataFrame, plans: pd.DataFrame) -> pd.DataFrame:
    """Bits per byte of the plans: arm, text_set, value (mean over seeds), low, high (range), n.

    ``texts``: arm, seed, text_set, nll, n_bytes. n is the number of seeds.
    """
    bits = texts.nll / np.log(2) / texts.n_bytes
    groups = bits.groupby([texts.arm, texts.text_set], sort=False)
    found = groups.agg(["mean", "min", "max", "count"])
    found = found.set_axis(["value", "low", "high", "n"], axis=1).reset_index()
    named = plans[["arm"]].assign(plan=plans["drop"].map(plan_name))
    return named.merge(found.rename(columns={"arm": "plan"}), on="plan").drop(columns="plan")
