"""Random sets of blocks that a choice of blocks has to beat."""

from collections.abc import Iterable

import numpy as np
import pandas as pd

from avss_utils.data.suites import Suite
from avss_utils.measure.judging import bits_per_byte, judge_answers, judge_texts
from avss_utils.models.load import LoadedModel
from avss_utils.models.plan import as_text
from avss_utils.scores.plans import plan_random

Arm = tuple[str, tuple[int, ...]]


def null_sets(n_blocks: int, *, n_drop: int, n: int, seed: int, marks: Iterable[Arm]) -> list[Arm]:
    """(name, drop): the marked arms, then n uniform and n end-protected random sets."""
    rng = np.random.default_rng(seed)
    sets = list(marks)
    for protect in (False, True):
        for _ in range(n):
            plan = plan_random(n_blocks, n_drop=n_drop, rng=rng, protect_ends=protect)
            sets.append((plan.rule, plan.drop))
    return sets


def summary_row(loaded: LoadedModel, suite: Suite, arm: Arm) -> pd.DataFrame:
    """One row per arm: accuracy by set and bits per byte over all text of the suite."""
    return _summary(judge_answers(loaded, suite, arm), judge_texts(loaded, suite, arm), arm[1])


def null_row(
    loaded: LoadedModel, suite: Suite, arm: Arm, *, answers: pd.DataFrame, texts: pd.DataFrame
) -> pd.DataFrame:
    """One block set of the null on the null's own budget; column ``null`` names its kind.

    An arm that ``answers`` and ``texts`` hold already is read from there and not judged again;
    ``suite`` must then be a part (``Suite.smaller``) of the one they come from.
    """
    name, drop = arm
    if name not in set(answers.arm):
        return summary_row(loaded, suite, arm).assign(null=name)
    ids = {q.row_id for questions in suite.questions.values() for q in questions}
    own = answers[(answers.arm == name) & (answers.wording == "plain")]
    own = own[own.set.isin(list(suite.questions)) & own.row_id.isin(ids)]
    read = texts[(texts.arm == name) & texts.text_set.isin(list(suite.windows))]
    read = read[read.window < read.text_set.map({k: len(w) for k, w in suite.windows.items()})]
    return _summary(own, read, drop).assign(null=name)


def _summary(answers: pd.DataFrame, texts: pd.DataFrame, drop: Iterable[int]) -> pd.DataFrame:
    right = answers.groupby("set", sort=False).correct.mean().add_prefix("accuracy_")
    row = {"drop": as_text(drop), **right, "bits_per_byte": bits_per_byte(texts)}
    return pd.DataFrame([row])
