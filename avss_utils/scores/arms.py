"""Arms of a pruning experiment: a short name -> the plan it stands for.

An arm is ``criterion``, ``criterion:rule`` or ``tail``, with ``/skip-first`` behind it where the
statistics leave out the first token of each text. Rules: lowest (the default), highest (the
opposite, a control), iterative, as-released, contiguous.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from avss_utils.errors import UsageError
from avss_utils.measure.activations import SITES, available_sites, collect_block_stats
from avss_utils.measure.block_stats import BlockStats, stats_table
from avss_utils.models.blocks import bypass_blocks
from avss_utils.models.plan import PruningPlan, as_drop, as_text, n_to_drop
from avss_utils.scores.criteria import CRITERIA, SCORED_ONCE, score_blocks, wanted_options
from avss_utils.scores.importance import avss_at
from avss_utils.scores.plans import (
    plan_as_released,
    plan_contiguous,
    plan_iterative,
    plan_lowest,
    plan_random,
    plan_tail,
)
from avss_utils.stats.retention import plan_name

if TYPE_CHECKING:  # seconds to import, and who reads a record needs no model
    from transformers import PreTrainedModel

RULES = ("lowest", "highest", "iterative", "as-released", "contiguous")
SKIP_FIRST = "/skip-first"
SPAN_CRITERION = "angular-distance"


def parse_arm(arm: str) -> tuple[str, str, bool]:
    """Criterion, rule and whether the first token is left out; UsageError for anything else."""
    skip_first = arm.endswith(SKIP_FIRST)
    criterion, _, rule = arm.removesuffix(SKIP_FIRST).partition(":")
    rule = rule or ("tail" if criterion == "tail" else "lowest")
    if criterion == rule == "tail":
        return criterion, rule, False
    if criterion not in CRITERIA:
        raise UsageError(
            f"unknown criterion {criterion!r}: choose from {', '.join(sorted(CRITERIA))}, tail"
        )
    if rule not in RULES:
        raise UsageError(f"unknown rule {rule!r}: choose from {', '.join(RULES)}")
    if rule == "iterative" and SCORED_ONCE & wanted_options(criterion):
        raise UsageError(f"{criterion!r} is not scored again as blocks go: use it without a rule")
    if rule == "contiguous" and criterion != SPAN_CRITERION:
        raise UsageError(
            f"only {SPAN_CRITERION!r} scores a run of blocks: use it with 'contiguous'"
        )
    return criterion, rule, skip_first


def check_arms(arms: Iterable[str], *chosen: Iterable[str]) -> None:
    """Raise UsageError unless every arm can be read and every chosen one is among them.

    The full model and AVSS as printed are always there.
    """
    known = {"full", "avss", *arms}
    for arm in known - {"full"}:
        parse_arm(arm)
    for arm in (arm for some in chosen for arm in some):
        if arm not in known:
            raise UsageError(
                f"{arm!r} is not among the arms: choose from {', '.join(sorted(known))}"
            )


def plan_arm(
    arm: str,
    collect: Callable[..., BlockStats],
    *,
    n_blocks: int,
    drop_ratio: float,
    options: dict[str, Any],
) -> PruningPlan:
    """The plan of ``arm``.

    ``collect(skip_first_token=..., drop=..., span=...)`` returns the statistics with ``drop``
    bypassed (a ``Calibration``); ``options`` are the criteria's keywords (eps, ratio, rng).
    """
    criterion, rule, skip_first = parse_arm(arm)
    n_drop = n_to_drop(n_blocks, ratio=drop_ratio)
    if rule == "tail":
        return plan_tail(n_blocks, n_drop=n_drop)

    def scores(drop: tuple[int, ...] = ()) -> np.ndarray:
        return score_blocks(criterion, collect(skip_first_token=skip_first, drop=drop), **options)

    if rule == "iterative":
        return plan_iterative(scores, n_blocks, n_drop=n_drop)
    if rule == "as-released":
        return plan_as_released(scores(), ratio=drop_ratio)
    if rule == "contiguous":
        stats = collect(skip_first_token=skip_first, span=n_drop)
        return plan_contiguous(stats.angular_distance(n_drop), n_drop=n_drop)
    if rule == "highest":
        return replace(plan_lowest(-scores(), n_drop=n_drop), rule=rule)
    return plan_lowest(scores(), n_drop=n_drop)


class Calibration:
    """Statistics of one model on one set of batches, collected when first asked for and kept.

    Name the ``spans`` of angular distances that will be asked for, or they cost another pass.
    ``in_processes``: as in ``collect_block_stats``.
    """

    def __init__(
        self,
        model: "PreTrainedModel",
        batches: Iterable[dict],
        *,
        eps: Iterable[float],
        spans: Iterable[int] = (1,),
        in_processes: bool = False,
    ) -> None:
        self.model, self.batches, self.in_processes = model, list(batches), in_processes
        self.eps, self.spans = tuple(dict.fromkeys(eps)), tuple(spans)
        self._kept: dict[tuple, BlockStats] = {}

    def __call__(
        self, *, skip_first_token: bool = False, drop: tuple[int, ...] = (), span: int = 1
    ) -> BlockStats:
        if span not in self.spans:
            self.spans += (span,)
            self._kept.clear()
        key = (skip_first_token, tuple(sorted(drop)))
        if key not in self._kept:
            with bypass_blocks(self.model, drop):
                self._kept[key] = self._collect(skip_first_token, whole=not drop)
        return self._kept[key]

    def _collect(self, skip_first_token: bool, *, whole: bool) -> BlockStats:
        """Every site the model has; only the residual stream while blocks are bypassed."""
        return collect_block_stats(
            self.model,
            self.batches,
            sites=available_sites(self.model) if whole else ("residual", "update"),
            eps=self.eps,
            skip_first_token=skip_first_token,
            pooled=True,
            histogram=whole,
            spans=self.spans if whole else (1,),
            in_processes=self.in_processes,
        )


def usable_criteria(stats: BlockStats, given: Iterable[str] = ("eps", "ratio")) -> list[str]:
    """Every criterion whose site the model has and whose options are all among ``given``."""
    hidden = {f"avss-{site}" for site in SITES if site not in stats.sites}
    wanted = {name: wanted_options(name) for name in CRITERIA if name not in hidden}
    return [name for name, options in wanted.items() if options <= set(given)]


def scores_table(stats: BlockStats, criteria: Iterable[str], **options: Any) -> pd.DataFrame:
    """Tidy scores, one row per criterion and block: criterion, block, score."""
    rows = [
        (name, block, score)
        for name in criteria
        for block, score in enumerate(score_blocks(name, stats, **options))
    ]
    return pd.DataFrame(rows, columns=["criterion", "block", "score"])


def blocks_table(collect: Calibration, *, eps: float, ratio: float) -> pd.DataFrame:
    """Tidy statistics by tokens (all, skip-first), site and block, with AVSS as printed."""
    parts = []
    for tokens, skip in (("all", False), ("skip-first", True)):
        stats = collect(skip_first_token=skip)
        table = stats_table(stats, eps=eps, ratio=ratio)
        scores = [avss_at(stats, site=site, eps=eps) for site in stats.sites]
        parts.append(table.assign(avss=np.concatenate(scores), tokens=tokens))
    return pd.concat(parts, ignore_index=True)


def plans_table(
    arms: Iterable[str], collect: Calibration, *, n_blocks: int, drop_ratio: float, options: dict
) -> pd.DataFrame:
    """One row per arm: arm, rule, n_dropped, drop, judged_as (the first arm with the same blocks).

    AVSS as printed, which the claims are about, is always among the arms and comes first.
    """
    arms = ["avss", *(arm for arm in arms if arm != "avss")]
    first: dict[tuple[int, ...], str] = {}
    rows = []
    for arm in arms:
        plan = plan_arm(arm, collect, n_blocks=n_blocks, drop_ratio=drop_ratio, options=options)
        judged_as = first.setdefault(plan.drop, arm)
        rows.append((arm, plan.rule, len(plan.drop), as_text(plan.drop), judged_as))
    return pd.DataFrame(rows, columns=["arm", "rule", "n_dropped", "drop", "judged_as"])


def distinct(plans: pd.DataFrame) -> list[tuple[str, tuple[int, ...]]]:
    """(arm, drop) of the full model and then of every plan that is not judged as another one."""
    own = plans[plans.arm == plans.judged_as]
    return [("full", ()), *((row.arm, as_drop(row.drop)) for row in own.itertuples())]


def curve_plans(
    arms: Sequence[str],
    collect: Calibration,
    *,
    n_blocks: int,
    n_drops: Iterable[int],
    options: dict[str, Any],
    n_random: int,
    seed: int,
) -> pd.DataFrame:
    """One row per arm and number of removed blocks: arm, n_dropped, drop.

    Arms "random 0", "random 1", ... are end-protected random sets.
    """
    rng, rows = np.random.default_rng(seed), []
    for n in n_drops:
        for arm in arms:
            plan = plan_arm(
                arm, collect, n_blocks=n_blocks, drop_ratio=n / n_blocks, options=options
            )
            rows.append((arm, n, as_text(plan.drop)))
        for number in range(n_random):
            plan = plan_random(n_blocks, n_drop=n, rng=rng, protect_ends=True)
            rows.append((f"random {number}", n, as_text(plan.drop)))
    return pd.DataFrame(rows, columns=["arm", "n_dropped", "drop"])


def plans_to_judge(*tables: pd.DataFrame) -> list[tuple[str, tuple[int, ...]]]:
    """The full model and every distinct set of blocks of the tables, by ``plan_name``."""
    drops = ["-", *(drop for table in tables for drop in table["drop"])]
    return list({plan_name(drop): as_drop(drop) for drop in drops}.items())
