"""The score of chapter 4 beside its rivals on untouched tasks: paired, and corrected for many."""

import numpy as np
import pandas as pd

from avss_utils.stats.outcomes import OutcomeTable
from avss_utils.stats.resampling import limits
from avss_utils.stats.retention import pooled_draws, sets_above_chance
from avss_utils.store.run_folder import Run


def rival_table(run: Run, *, level: float) -> pd.DataFrame:
    """Mean retention of the run's ``better`` score less that of every other arm.

    Over the tasks on which the full model is above chance, questions drawn anew, the same for all
    arms. Columns: measure (raw, corrected), rival, value, low, high (95 %), n (questions), p
    (two-sided, from the draws), holm (adjusted over the rivals of the measure), beaten (holm at
    most ``level`` and the value above 0).
    """
    from statsmodels.stats.multitest import multipletests  # a second to import

    parameters = run.record["parameters"]
    outcomes, better = OutcomeTable(run.read("confirm_answers")), parameters["better"]
    names = sets_above_chance(outcomes, seed=parameters["seed"])
    draws = pooled_draws(run.read("confirm"), outcomes, names, seed=parameters["seed"])
    n, rows = sum(len(outcomes.questions(name)) for name in names), []
    for (measure, rival), own in draws.items():
        if rival == better or (measure, better) not in draws:
            continue
        gap = draws[measure, better] - own
        beyond = min((gap[1:] <= 0).mean(), (gap[1:] >= 0).mean())
        p = min(1.0, 2 * (1 + beyond * len(gap[1:])) / len(gap))
        rows.append((measure, rival, float(gap[0]), *limits(gap[1:]), n, p))
    table = pd.DataFrame(rows, columns=["measure", "rival", "value", "low", "high", "n", "p"])
    if table.empty or not np.isfinite(table["value"]).all():
        return table.assign(holm=np.nan, beaten=False)
    groups = table.groupby("measure").p
    adjusted = groups.transform(lambda p: multipletests(p, method="holm")[1])
    return table.assign(holm=adjusted, beaten=(adjusted <= level) & (table["value"] > 0))
