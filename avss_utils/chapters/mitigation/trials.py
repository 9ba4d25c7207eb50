"""Every arm trained and judged the same way: compact rows, a row an arm, seed, set and measure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from avss_utils.chapters.mitigation.adapter_training import train
from avss_utils.chapters.mitigation.answer_choices import merged
from avss_utils.chapters.mitigation.arms import Arm, Recipe, is_random, rank_of
from avss_utils.chapters.mitigation.judging import Bench, judged_rows
from avss_utils.chapters.mitigation.lessons import Lesson
from avss_utils.chapters.mitigation.outcomes import UNTRAINED
from avss_utils.data.answer_sets import Events
from avss_utils.measure.judging import for_evaluation
from avss_utils.models.plan import as_text
from avss_utils.scores.answer_study import SetStudy
from avss_utils.scores.eavss import ProneScores
from avss_utils.scores.probes import probe_table


@dataclass(frozen=True)
class Lessons:
    """What every arm learns from and stops by; their questions are in no evaluation."""

    training: Sequence[Lesson]
    development: Sequence[Lesson]


def ranking_table(
    loaded,
    sets: Sequence[Events],
    *,
    eps: float,
    ratio: float,
    n_folds: int,
    seed: int,
    batch_tokens: int,
) -> pd.DataFrame:
    """What arms choose blocks by, on the questions that they learn from: ranking, block, score.

    eavss: read as a contrast, the mean over sets; probe: AUROC for a false answer, likewise. High
    is prone.
    """
    sizes = dict(eps=eps, ratio=ratio, batch_tokens=batch_tokens)
    eavss = ProneScores(loaded, sets, **sizes)["contrast"]
    options = dict(sites=("residual",), seed=seed, keep_states=True, **sizes)
    probes = [
        probe_table(SetStudy(loaded, own, own, **options), n_folds=n_folds).auroc.to_numpy()
        for own in sets
    ]
    parts = [
        pd.DataFrame({"ranking": name, "block": np.arange(len(score)), "score": score})
        for name, score in (("eavss", eavss), ("probe", np.mean(probes, axis=0)))
    ]
    return pd.concat(parts, ignore_index=True)


def rate_rows(
    loaded, lessons: Lessons, recipe: Recipe, rates: Sequence[float], seed: int, arm: Arm
) -> pd.DataFrame:
    """Development loss of one arm by learning rate: arm, rate, step, development.

    One rate leaves nothing to choose: nothing is trained, and its loss is 0.
    """
    parts = []
    if len(rates) == 1:
        first = {"arm": [arm.name], "rate": list(rates), "step": [0], "development": [0.0]}
        return pd.DataFrame(first)
    for rate in rates:
        own = replace(recipe, learning_rate=rate)
        trained = train(loaded, lessons.training, lessons.development, arm, own, seed=seed)
        history = trained.history.dropna(subset="development")
        parts.append(history[["step", "development"]].assign(arm=arm.name, rate=rate))
    return pd.concat(parts, ignore_index=True)[["arm", "rate", "step", "development"]]


def best_rates(table: pd.DataFrame) -> dict[str, float]:
    """The learning rate of least development loss by arm, of ``rate_rows``."""
    least = table.loc[table.groupby("arm", sort=False).development.idxmin()]
    return dict(zip(least.arm, least.rate, strict=True))


def arm_table(arms: Sequence[Arm], recipe: Recipe) -> pd.DataFrame:
    """The arms as they are shown: arm, trained, read, rank, contrast, shuffled."""
    rows = [
        (
            a.name,
            as_text(a.trained),
            as_text(a.read),
            rank_of(a, recipe.ranks),
            a.contrast,
            a.shuffled,
        )
        for a in arms
    ]
    return pd.DataFrame(rows, columns=["arm", "trained", "read", "rank", "contrast", "shuffled"])


def trials(
    arms: Sequence[Arm], rates: Mapping[str, float], *, n_seeds: int
) -> list[tuple[Arm | None, float, int]]:
    """(arm, learning rate, seed): the untrained model, then every arm, seed by seed.

    Random arms have the first seed alone: they are draws themselves.
    """
    found: list[tuple[Arm | None, float, int]] = [(None, 0.0, 0)]
    for seed in range(n_seeds):
        found += [(a, rates[a.name], seed) for a in arms if not (seed and is_random(a.name))]
    return found


def arm_rows(
    loaded,
    lessons: Lessons,
    bench: Bench,
    recipe: Recipe,
    dtype: str,
    trial: tuple[Arm | None, float, int],
    *,
    folder: Path | None = None,
) -> pd.DataFrame:
    """Train one (arm, learning rate, seed), or nothing for None, and judge it.

    Columns: arm, seed, set, measure, cells, value. ``cells`` hold a question each, in the order of
    the bench (``cells.as_shares``): mc1, mc2, confidence, mc1 without the question; of own answers
    match (is one of the aliases), contains (has one of them within), abstained, and own confidence
    (its probability); right for a task. ``value``: bits per byte and divergence of a text set, the
    number of parameters, steps, and those of them that were left out.
    """
    arm, rate, seed = trial
    after, name, facts = loaded, UNTRAINED, {"parameters": 0}
    if arm is not None:
        own = replace(recipe, learning_rate=rate)
        options = dict(seed=seed, folder=folder)
        trained = train(loaded, lessons.training, lessons.development, arm, own, **options)
        facts = {
            "parameters": trained.n_parameters,
            "steps": trained.history.step.max(),
            "left out": trained.n_left_out,
        }
        after, name = merged(loaded, trained, keep=False), arm.name
    rows = judged_rows(loaded, for_evaluation(after, dtype), bench, dtype)
    rows += [("", measure, "", float(value)) for measure, value in facts.items()]
    table = pd.DataFrame(rows, columns=["set", "measure", "cells", "value"])
    return table.assign(arm=name, seed=seed)[["arm", "seed", *table.columns]]
