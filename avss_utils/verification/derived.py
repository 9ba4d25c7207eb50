"""Scores and plans that follow from tables of a record, without the model."""

from collections.abc import Iterable, Iterator
from types import SimpleNamespace

import numpy as np
import pandas as pd

from avss_utils.arms import parse_arm
from avss_utils.importance import score_blocks
from avss_utils.pruning import (
    PruningPlan,
    as_drop,
    as_text,
    n_to_drop,
    plan_as_released,
    plan_lowest,
    plan_random,
    plan_tail,
)
from avss_utils.runs import UsageError
from avss_utils.verification.parts import Part, each, holds, numbers, ranked, same
from avss_utils.verification.subject import N_TEXTS, Subject

LEAST = 0.9  # rank correlation of a few texts' statistics with those of all
CHOICE_ALIKE = 0.6  # share of a plan's blocks that a few texts must choose too


FORM_ONLY = "form only, what decides it is in no table"


class RecordedStats:
    """What criteria ask of ``BlockStats``, from columns of tables; KeyError for what they lack.

    ``columns``: arrays of shape (n_blocks,) by (statistic, site or span, threshold or None).
    """

    def __init__(self, columns: dict[tuple, np.ndarray]) -> None:
        self.columns = columns
        self.n_blocks = len(next(iter(columns.values()))) if columns else 0

    def variance(self, site: str) -> np.ndarray:
        return self.columns["variance", site, None]

    def zeros(self, site: str, *, eps: float) -> np.ndarray:
        return self.columns["zeros", site, eps]

    def n_entries(self, site: str) -> np.ndarray:
        return self.columns["n_entries", site, None]

    def sparsity(self, site: str, eps: float) -> np.ndarray:
        return self.zeros(site, eps=eps) / self.n_entries(site)

    def relative_sparsity(self, site: str, *, ratio: float) -> np.ndarray:
        return self.columns["relative", site, ratio]

    def pooled_variance(self, site: str) -> np.ndarray:
        return self.columns["pooled", site, None]

    @property
    def influence(self) -> np.ndarray:
        return self.columns["influence", None, None]

    @property
    def relative_magnitude(self) -> np.ndarray:
        return self.columns["magnitude", None, None]

    def angular_distance(self, span: int = 1) -> np.ndarray:
        return self.columns["angle", span, None]


def stats_of_blocks(blocks: pd.DataFrame, *, eps: float, ratio: float, tokens: str = "all"):
    """Statistics as columns of notebook 01's table ``blocks``."""
    found: dict[tuple, np.ndarray] = {}
    for site, own in blocks[blocks.tokens == tokens].groupby("site", sort=False):
        for name in ("variance", "n_entries"):
            found[name, site, None] = own[name].to_numpy(float)
        found["pooled", site, None] = own.pooled_variance.to_numpy(float)
        found["zeros", site, eps] = own.zeros.to_numpy(float)
        found["relative", site, ratio] = own.relative_sparsity.to_numpy(float)
        found["influence", None, None] = own.influence.to_numpy(float)
        found["angle", 1, None] = own.angle.to_numpy(float)
    return found


def stats_of_scale(scale: pd.DataFrame) -> dict[tuple, np.ndarray]:
    """Statistics as columns of notebook 04's table ``scale``, in float32."""
    found: dict[tuple, np.ndarray] = {}
    own = scale[(scale.tokens == "all") & (scale.dtype == "float32")]
    for (site, eps), part in own.groupby(["site", "eps"], sort=False):
        found["variance", site, None] = part["std"].to_numpy() ** 2
        found["n_entries", site, None] = part.n_entries.to_numpy(float)
        found["zeros", site, float(eps)] = part.zeros.to_numpy(float)
    return found


def check_scores(
    scores: pd.DataFrame, stats: RecordedStats, options: dict
) -> tuple[list[Part], list[str]]:
    """Every criterion that follows from the tables, and the names of those that do not.

    ``options``: as of ``score_blocks``; what they or ``stats`` lack leaves a criterion out.
    """
    parts, left = [], []
    for name, own in scores.groupby("criterion", sort=False):
        try:
            again = score_blocks(name, stats, **options)
        except (KeyError, AttributeError, UsageError):
            left.append(name)
            continue
        parts.append(
            numbers("from the record's other tables", own.score, again, 1e-5, relative=True)
        )
    return parts, left


def sampled_scores(
    subject: Subject, scores: pd.DataFrame, names: Iterable[str], options: dict
) -> Iterator[Part]:
    """The order of blocks by each criterion beside that of the first calibration texts."""
    for name in names:
        recorded = scores[scores.criterion == name].score
        try:
            again = score_blocks(name, subject.sampled, **options)
        except UsageError as error:
            if "needs" not in str(error):
                raise
            yield holds(f"{name}: finite only", np.isfinite(recorded))
            continue
        yield ranked(f"order of blocks by {N_TEXTS} texts", recorded, again, least=LEAST)


def plan_of(arm: str, n_drop: int, scores: pd.DataFrame, ratio: float) -> PruningPlan | None:
    """The plan of an arm from the record's scores; None where these do not decide it."""
    criterion, rule, skip_first = parse_arm(arm)
    own = scores[scores.criterion == criterion].score.to_numpy(float)
    n_blocks = int(scores.block.max()) + 1
    if rule == "tail":
        return plan_tail(n_blocks, n_drop=n_drop)
    if skip_first or rule in ("iterative", "contiguous") or not len(own):
        return None
    if rule == "as-released":
        return plan_as_released(own, ratio=ratio)
    return plan_lowest(-own if rule == "highest" else own, n_drop=n_drop)


def check_plans(
    plans: pd.DataFrame,
    scores: pd.DataFrame,
    *,
    n_random: int = 0,
    seed: int = 0,
    ratio: float = 0.25,
    explain: bool = True,
) -> Iterator[Part]:
    """Every plan whose arm the scores decide, every random one, and the form of the others.

    ``explain``: name the others.
    """
    n_blocks = int(scores.block.max()) + 1
    rng, again, left = np.random.default_rng(seed), {}, []
    for n in dict.fromkeys(plans.n_dropped):
        for number in range(n_random):
            drop = plan_random(n_blocks, n_drop=n, rng=rng, protect_ends=True).drop
            again[f"random {number}", n] = drop
    for row in plans[~plans.arm.str.startswith("random ")].itertuples():
        if plan := plan_of(row.arm, row.n_dropped, scores, ratio):
            again[row.arm, row.n_dropped] = plan.drop
        else:
            left.append(row.arm)
    keys = list(zip(plans.arm, plans.n_dropped, strict=True))
    recorded = [drop for key, drop in zip(keys, plans["drop"], strict=True) if key in again]
    found = [as_text(again[key]) for key in keys if key in again]
    yield same("plans from scores, random ones drawn again", recorded, found)
    yield well_formed(plans, n_blocks)
    for row in plans[plans.arm.isin(left) & plans.arm.str.endswith(":contiguous")].itertuples():
        drop = as_drop(row.drop)
        yield holds("contiguous", [drop == tuple(range(drop[0], drop[0] + len(drop)))])
    for arm in sorted({a for a in left if not a.endswith(":contiguous")}):
        if explain:
            yield Part(f"{arm}: {FORM_ONLY}")


def well_formed(plans: pd.DataFrame, n_blocks: int) -> Part:
    """As many different blocks as the plan says, all of them the model's, in order."""
    drops = [as_drop(drop) for drop in plans["drop"]]
    good = [
        len(drop) == n and list(drop) == sorted(set(drop)) and max(drop, default=0) < n_blocks
        for drop, n in zip(drops, plans.n_dropped, strict=True)
    ]
    return holds("numbers of blocks", good)


def sampled_plans(subject: Subject, plans: pd.DataFrame) -> Iterator[Part]:
    """Blocks that the first calibration texts choose too, where a statistic decides the arm."""

    def make(row) -> Iterator[Part]:
        criterion, rule, _ = parse_arm(row.arm)
        if criterion == "tail" or rule not in ("lowest", "highest"):
            return
        options = dict(eps=subject["eps"], ratio=subject["relative_eps"])
        try:
            again = score_blocks(criterion, subject.sampled, **options)
        except UsageError as error:
            if "needs" not in str(error):
                raise
            yield Part(f"{row.arm}: {FORM_ONLY}")
            return
        own, n = set(as_drop(row.drop)), len(as_drop(row.drop))
        found = plan_lowest(-again if rule == "highest" else again, n_drop=n).drop
        gap = 1 - len(own & set(found)) / n
        yield Part(f"share of blocks that {N_TEXTS} texts do not choose", n, gap, 1 - CHOICE_ALIKE)

    yield from each(plans.itertuples(), make)


def searches(subject: Subject, losses: pd.DataFrame, greedy: pd.DataFrame) -> SimpleNamespace:
    """What criteria ask of ``Sensitivity``, from tables; AttributeError for what these lack."""
    by_block = losses.groupby("block", sort=True)
    mean = (by_block.nll.sum() / by_block.n_scored.sum()).to_numpy()
    return SimpleNamespace(
        losses=SimpleNamespace(mean=mean),
        greedy=greedy,
        n_greedy=int(greedy.step.max()) + 1,
        n_blocks=subject.n_blocks,
    )


def n_drops(subject: Subject, counts: Iterable[int]) -> list[int]:
    """The numbers of removed blocks of notebook 04's curves."""
    n, n_blocks = n_to_drop(subject.n_blocks, ratio=subject["drop_ratio"]), subject.n_blocks
    return sorted({c for c in (*counts, n) if c <= max(n, n_blocks // 2)})
