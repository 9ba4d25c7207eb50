"""C7 and C8: do false answers leave a pattern, and is it a block's (notebook 02)?"""

import pandas as pd

from avss_utils.chapters.hallucination.pruned import CHANCE, plan_table
from avss_utils.claims.papers import CLAIMED_ARM, KEPT, LEVEL, SMALL_EFFECT
from avss_utils.claims.verdicts import Finding
from avss_utils.data.answer_sets import PAIRED
from avss_utils.data.own import set_name
from avss_utils.stats.resampling import Estimate
from avss_utils.stats.retention import BASELINE, pick, plan_name
from avss_utils.store.run_folder import Run


def pattern_findings(cross_fit: pd.DataFrame, *, primary_set: str) -> list[Finding]:
    """C7 by set: the effect of falsehood on the log variance of the block that differs most.

    The block is picked on calibration rows, the effect measured on evaluation rows, in standard
    deviations between questions, above SMALL_EFFECT. Not testable where the interval is wider than
    that to either side. The placebos' effects stand in the note.
    """
    found = []
    for name, own in cross_fit.groupby("set", sort=False):
        by_kind = own.set_index("kind")
        row, other = by_kind.loc[PAIRED], by_kind.value.drop(PAIRED)
        estimate = Estimate(row.value, row.low, row.high, int(row.n))
        placebos = ", ".join(f"{kind} {value:.2f}" for kind, value in other.items())
        found.append(
            Finding(
                "C7",
                f"effect on log variance, {name}",
                estimate,
                threshold=SMALL_EFFECT,
                testable=(row.high - row.low) / 2 <= SMALL_EFFECT,
                primary=name == primary_set,
                note=f"block {int(row.block)}; {placebos}",
            )
        )
    return found


def flag_findings(
    halves: pd.DataFrame, transfer: pd.DataFrame, *, primary_set: str
) -> list[Finding]:
    """C8 by set, EAVSS read as a contrast: flagged blocks that halves, and then sets, share.

    Primary: the share of the top quarter that two halves have in common, beyond shuffled labels,
    above 0. Beside it: the share of draws with shuffled labels in which sets have at least as many
    flagged blocks in common with the set left out, below LEVEL.
    """
    found = [
        Finding(
            "C8",
            f"flags shared by halves, {row.set}",
            Estimate(row.value, row.low, row.high, row.n),
            threshold=0.0,
            primary=row.set == primary_set,
        )
        for row in halves[halves.reading == "contrast"].itertuples()
    ]
    for row in transfer[transfer.reading == "contrast"].itertuples():
        found.append(
            Finding(
                "C8",
                f"chance of sharing as many with {row.target}",
                Estimate(row.as_good, row.low, row.high, row.n),
                threshold=LEVEL,
                below=True,
                primary=False,
                note=f"{row.value:.2f} shared, {row.shuffled:.2f} with shuffled labels",
            )
        )
    return found


def answer_findings(plans: pd.DataFrame, *, arm: str) -> list[Finding]:
    """C1 on true and false answers of every open set, and on the model's own, for one plan.

    None is primary: that is notebook 01's. A set on which the full model does not prefer true
    answers, or gives none, tests nothing.
    """
    found = []
    base = {
        "raw retention": ("choice accuracy", CHANCE),
        "corrected retention": ("choice accuracy", CHANCE),
        "exact match retention": ("exact match", 0.0),
    }
    for name in plans.set.unique():
        for measure, (level, chance) in base.items():
            found.append(
                Finding(
                    "C1",
                    f"{measure}, {name}",
                    pick(plans, set=name, arm=arm, measure=measure),
                    threshold=KEPT,
                    testable=pick(plans, set=name, arm=BASELINE, measure=level).low > chance,
                    primary=False,
                )
            )
    return found


def hallucination_findings(run: Run) -> list[Finding]:
    """C7 and C8, and what notebook 02 adds to C1."""
    parameters = run.record["parameters"]
    primary_set = set_name(parameters["sets"][0])
    judged = plan_table(run.read("choices"), run.read("answered"), seed=parameters["seed"])
    dropped = run.read("plans").set_index("arm")["drop"][CLAIMED_ARM]
    return [
        *answer_findings(judged, arm=plan_name(dropped)),
        *pattern_findings(run.read("cross_fit"), primary_set=primary_set),
        *flag_findings(run.read("half_excess"), run.read("transfer"), primary_set=primary_set),
    ]
