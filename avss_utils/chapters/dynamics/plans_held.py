"""Does a pruning plan that was made before fine-tuning still hold after it?"""

from collections.abc import Iterable
from itertools import combinations

import numpy as np
import pandas as pd

from avss_utils.chapters.dynamics.movement import PRUNED, UNIT
from avss_utils.chapters.dynamics.tasks import Part
from avss_utils.measure.drop_losses import drop_losses
from avss_utils.models.blocks import decoder_blocks
from avss_utils.models.load import LoadedModel
from avss_utils.models.plan import as_drop, as_text
from avss_utils.scores.plans import plan_lowest, plan_random
from avss_utils.stats.resampling import Estimate, bootstrap

BEFORE, AFTER, RANDOM, WHOLE_MODEL = "before", "after", "random", "nothing dropped"


def chosen(rows: pd.DataFrame, criteria: Iterable[str], *, n_drop: int) -> pd.DataFrame:
    """The ``n_drop`` lowest blocks by each criterion at the first and at the last step.

    ``rows``: one training's, of ``StatsCallback``. Columns: criterion, when (before, after), drop.
    """
    found = []
    for criterion in criteria:
        own = rows[(rows.measure == criterion) & (rows.site == "")]
        for when, step in ((BEFORE, own.step.min()), (AFTER, own.step.max())):
            scores = own[own.step == step].sort_values("block").value.to_numpy()
            drop = plan_lowest(scores, n_drop=n_drop).drop
            found.append((criterion, when, as_text(drop)))
    return pd.DataFrame(found, columns=["criterion", "when", "drop"])


def pruned_losses(
    tuned: LoadedModel,
    part: Part,
    plans: pd.DataFrame,
    *,
    n_drop: int,
    n_random: int,
    seed: int,
    batch_tokens: int,
) -> pd.DataFrame:
    """Nats a token of the fine-tuned model under each of ``chosen``'s plans, and two controls.

    Columns: criterion, when, drop, loss. Controls: nothing dropped, and ``n_random`` sets without
    the first and the last block, each a row with criterion "".
    """
    rng, n_blocks = np.random.default_rng(seed), len(decoder_blocks(tuned.model))
    controls = [("", WHOLE_MODEL, "-")]
    for _ in range(n_random):
        plan = plan_random(n_blocks, n_drop=n_drop, rng=rng, protect_ends=True)
        controls.append(("", RANDOM, as_text(plan.drop)))
    table = pd.concat(
        [pd.DataFrame(controls, columns=list(plans.columns)), plans], ignore_index=True
    )
    drops = list(map(as_drop, table["drop"]))
    losses = drop_losses(tuned.model, part.rows, drops, batch_tokens=batch_tokens)
    return table.assign(loss=losses.mean)


def overlaps(plans: pd.DataFrame) -> pd.DataFrame:
    """Shares of dropped blocks in common, one row per task, method and criterion.

    ``plans``: task, method, seed, criterion, when, drop. Columns: kept (plan before with the one
    after, mean over seeds), seeds (plans after of two seeds, mean over pairs: the noise; NaN with
    one seed), n_seeds.
    """
    rows = []
    named = plans[plans.criterion != ""]
    for key, own in named.groupby(["task", "method", "criterion"], sort=False):
        by = {when: part.set_index("seed")["drop"] for when, part in own.groupby("when")}
        kept = [_shared(by[BEFORE][s], by[AFTER][s]) for s in by[AFTER].index]
        pairs = [_shared(*pair) for pair in combinations(by[AFTER], 2)]
        noise = float(np.mean(pairs)) if pairs else np.nan
        rows.append((*key, float(np.mean(kept)), noise, len(kept)))
    names = ["task", "method", "criterion", "kept", "seeds", "n_seeds"]
    return pd.DataFrame(rows, columns=names)


def kept_less_noise(table: pd.DataFrame, criterion: str, *, rng: np.random.Generator) -> Estimate:
    """Blocks in common before and after less those of two seeds, mean over tasks and methods.

    ``table``: of ``overlaps``; interval over tasks and methods (n). Below 0 where training moves
    the plan more than a seed does.
    """
    own = table[table.criterion == criterion]
    return bootstrap(
        lambda kept, seeds, axis: (kept - seeds).mean(axis), own.kept, own.seeds, rng=rng
    )


def loss_table(plans: pd.DataFrame) -> pd.DataFrame:
    """Nats a token over those of the whole fine-tuned model, mean over seeds.

    One row per task and method; columns: whole (the loss itself), random, and "<criterion> before"
    and "<criterion> after" for every criterion.
    """
    whole = plans[plans.when == WHOLE_MODEL].set_index(UNIT).loss.rename("whole")
    own = plans[plans.when != WHOLE_MODEL].join(whole, on=UNIT)
    own["extra"] = own.loss - own.whole
    own["plan"] = (own.criterion + " " + own.when).str.strip()
    table = own.pivot_table(
        index=["task", "method"], columns="plan", values="extra", aggfunc="mean", sort=False
    )
    table.insert(0, "whole", whole.groupby(["task", "method"]).mean())
    return table.rename_axis(columns=None).reset_index()


def stale_loss(losses: pd.DataFrame, criterion: str, *, rng: np.random.Generator) -> Estimate:
    """Loss under the plan before less that under the plan after, mean over tasks and methods.

    ``losses``: of ``loss_table``; interval over tasks and methods (n).
    """
    gap = losses[f"{criterion} before"] - losses[f"{criterion} after"]
    return bootstrap(lambda own, axis: own.mean(axis), gap, rng=rng)


def plan_rows(tuned: pd.DataFrame) -> pd.DataFrame:
    """UNIT, criterion, when, drop, loss of ``Dynamics.tuned``'s rows: what this compares."""
    own = tuned[tuned.measure == PRUNED].rename(columns={"value": "loss"})
    return own[[*UNIT, "criterion", "when", "drop", "loss"]].reset_index(drop=True)


def shown_plans(plans: pd.DataFrame) -> pd.DataFrame:
    """The plans of one training per task: by criterion the one before, then each task's after.

    Columns: arm (a name of the plan), drop (block numbers).
    """
    rows = []
    for criterion, own in plans[plans.criterion != ""].groupby("criterion", sort=False):
        start = own[own.when == BEFORE].iloc[0]
        rows.append((f"{criterion}: before", as_drop(start["drop"])))
        after = own[own.when == AFTER]
        rows += [(f"after {row.task}", as_drop(row.drop)) for row in after.itertuples()]
    return pd.DataFrame(rows, columns=["arm", "drop"])


def _shared(one: str, other: str) -> float:
    first, second = set(as_drop(one)), set(as_drop(other))
    return len(first & second) / len(first)
