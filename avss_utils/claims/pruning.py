"""C1-C4: what pruning by AVSS keeps, and whether it beats chance (notebook 01)."""

from dataclasses import replace
from typing import Any

import pandas as pd

from avss_utils.claims.awaited import awaited, command
from avss_utils.claims.papers import (
    BYTE_ENTROPY,
    CLAIMED_ARM,
    KEPT,
    LEVEL,
    PRIMARY_TASK,
    SIZES,
    shown_by,
)
from avss_utils.claims.verdicts import NOTHING, Finding, Needs
from avss_utils.stats.outcomes import OutcomeTable
from avss_utils.stats.paired import paired
from avss_utils.stats.resampling import against_null
from avss_utils.stats.retention import (
    BASELINE,
    SENTIMENT,
    pick,
    question_estimates,
    sets_above_chance,
    text_estimates,
)
from avss_utils.store.run_folder import Run

_KIND = {"random": "uniform random", "random-protected": "end-protected random"}
_PART = {"random": "a", "random-protected": "b"}
_ENOUGH = Needs("above", KEPT)
OTHER_SITE = "avss-update"


def retention_findings(
    questions: pd.DataFrame, texts: pd.DataFrame, *, primary_text: str
) -> list[Finding]:
    """C1-C3 for AVSS from the tidy estimates of ``stats.retention``, plain wording.

    Effects: raw retention of SciQ, bits retention of ``primary_text``, raw retention of SST-2. A
    task on which the full model's interval reaches chance cannot test anything (sentiment: chance
    or always the commonest answer, whichever is more), nor can texts of which it knows no more than
    the frequency of bytes.
    """
    found = []
    plain = questions[questions.wording == "plain"]
    for task in plain.set.unique():
        claim = "C3" if task == SENTIMENT else "C1"
        above = pick(plain, set=task, arm=BASELINE, measure="above chance")
        for measure in ("raw retention", "corrected retention"):
            effect = task in (PRIMARY_TASK, SENTIMENT) and measure == "raw retention"
            found.append(
                Finding(
                    claim,
                    f"{measure}, {task}",
                    pick(plain, set=task, arm=CLAIMED_ARM, measure=measure),
                    _ENOUGH,
                    part="a" if effect else "",
                    size=SIZES[claim]["a"],
                    testable=above.low > 0,
                )
            )
    for text_set in texts.text_set.unique():
        before = pick(texts, text_set=text_set, arm=BASELINE, measure="bits per byte")
        found.append(
            Finding(
                "C2",
                f"bits retention, {text_set}",
                pick(texts, text_set=text_set, arm=CLAIMED_ARM, measure="bits retention"),
                _ENOUGH,
                part="a" if text_set == primary_text else "",
                size=SIZES["C2"]["a"],
                testable=before.high < BYTE_ENTROPY,
            )
        )
    return found


def mean_finding(run: Run) -> Finding:
    """C1 (b): mean raw retention over the question sets on which the full model is above chance.

    Above chance on development rows, which chose nothing else; it waits for their table.
    """
    measure, seed = "mean raw retention over question sets", run.record["parameters"]["seed"]
    options: dict[str, Any] = dict(part="b", size=SIZES["C1"]["b"])
    if (rows := awaited(run, "development")) is None:
        return Finding("C1", measure, NOTHING, _ENOUGH, **options, waits=command(run))
    answers = run.read("answers")
    outcomes = OutcomeTable(answers[answers.wording == "plain"].drop(columns="wording"))
    above = sets_above_chance(OutcomeTable(rows.assign(arm=BASELINE)), seed=seed)
    names = [name for name in above if name in outcomes.sets() and name != SENTIMENT]
    if not names:
        return Finding("C1", measure, NOTHING, _ENOUGH, **options, testable=False)
    kept = paired(outcomes, CLAIMED_ARM, BASELINE, names, kind="retention", seed=seed)
    return Finding("C1", measure, kept, _ENOUGH, **options, note=", ".join(names))


def null_findings(null: pd.DataFrame, *, arm: str = CLAIMED_ARM) -> list[Finding]:
    """C4 from the null table: the share of random sets at least as good as the arm, at most LEVEL.

    (a) in bits per byte against uniform random sets, (b) against end-protected ones; FEWEST_SETS.
    """
    own = null[null.null == arm].iloc[0]
    accuracies = [c for c in null.columns if c.startswith("accuracy_")]
    # +1 where higher is better, -1 where lower is
    measures = {"bits_per_byte": -1, **dict.fromkeys(accuracies, 1)}
    found = []
    for kind in ("random", "random-protected"):
        sets = null[null.null == kind]
        for measure, sign in measures.items():
            place = against_null(sign * own[measure], sign * sets[measure].to_numpy())
            found.append(
                Finding(
                    "C4",
                    f"share of {_KIND[kind]} sets at least as good, {measure}",
                    place.at_least_as_good,
                    Needs("below", LEVEL),
                    part=_PART[kind] if measure == "bits_per_byte" else "",
                    size=shown_by(len(sets)),
                    note=f"p = {place.p_value:.3g}",
                )
            )
    return found


def pruning_findings(run: Run) -> list[Finding]:
    """C1-C4 from a run of notebook 01."""
    seed, plans = run.record["parameters"]["seed"], run.read("plans").set_index("arm")
    other = plans.judged_as.get(OTHER_SITE)  # the arm that has the same blocks, if it was tried
    needed = [BASELINE, CLAIMED_ARM, other]
    answers, texts = (t[t.arm.isin(needed)] for t in (run.read("answers"), run.read("texts")))
    questions = question_estimates(answers[answers.wording == "plain"], seed=seed)
    found = retention_findings(
        questions,
        text_estimates(texts, seed=seed),
        primary_text=run.record["parameters"]["text_sets"][0],
    )
    found += [mean_finding(run), *null_findings(run.read("null"))]
    return found + (other_site(questions, run.read("null"), arm=other) if other else [])


def other_site(questions: pd.DataFrame, null: pd.DataFrame, *, arm: str) -> list[Finding]:
    """C1 and C4 with AVSS of what a block adds: the papers do not name the site. Exploratory."""
    found = [
        f
        for f in null_findings(null, arm=arm)
        if f.part  # in bits per byte
    ]
    if PRIMARY_TASK in set(questions.set):
        kept = pick(questions, set=PRIMARY_TASK, arm=arm, measure="raw retention")
        found.append(Finding("C1", f"raw retention, {PRIMARY_TASK}", kept, _ENOUGH))
    return [replace(f, measure=f"{f.measure}, AVSS of the update", part="") for f in found]
