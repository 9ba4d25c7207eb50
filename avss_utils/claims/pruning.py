"""C1-C4: what pruning by AVSS keeps, and whether it beats chance (notebook 01)."""

import pandas as pd

from avss_utils.claims.papers import BYTE_ENTROPY, CLAIMED_ARM, KEPT, LEVEL, PRIMARY_TASK
from avss_utils.claims.verdicts import Finding
from avss_utils.stats.resampling import against_null
from avss_utils.stats.retention import BASELINE, SENTIMENT, pick, question_estimates, text_estimates
from avss_utils.store.run_folder import Run

_KIND = {"random": "uniform random", "random-protected": "end-protected random"}


def retention_findings(
    questions: pd.DataFrame, texts: pd.DataFrame, *, primary_text: str
) -> list[Finding]:
    """C1-C3 for AVSS from the tidy estimates of ``stats.retention``, plain wording.

    Primary: raw retention of SciQ, bits retention of ``primary_text``, raw retention of SST-2.
    A task on which the full model's interval reaches chance cannot test anything (sentiment: chance
    or always the commonest answer, whichever is more), nor can texts of which it knows no more than
    the frequency of bytes.
    """
    found = []
    plain = questions[questions.wording == "plain"]
    for task in plain.set.unique():
        claim = "C3" if task == SENTIMENT else "C1"
        above = pick(plain, set=task, arm=BASELINE, measure="above chance")
        for measure in ("raw retention", "corrected retention"):
            found.append(
                Finding(
                    claim,
                    f"{measure}, {task}",
                    pick(plain, set=task, arm=CLAIMED_ARM, measure=measure),
                    threshold=KEPT,
                    testable=above.low > 0,
                    primary=task in (PRIMARY_TASK, SENTIMENT) and measure == "raw retention",
                )
            )
    for text_set in texts.text_set.unique():
        before = pick(texts, text_set=text_set, arm=BASELINE, measure="bits per byte")
        estimate = pick(texts, text_set=text_set, arm=CLAIMED_ARM, measure="bits retention")
        found.append(
            Finding(
                "C2",
                f"bits retention, {text_set}",
                estimate,
                threshold=KEPT,
                testable=before.high < BYTE_ENTROPY,
                primary=text_set == primary_text,
            )
        )
    return found


def null_findings(null: pd.DataFrame, *, arm: str = CLAIMED_ARM) -> list[Finding]:
    """C4 from the null table: the share of random sets at least as good as the arm.

    The claim needs that share below 5 %. Primary: bits per byte against uniform random sets.
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
                    threshold=LEVEL,
                    below=True,
                    primary=kind == "random" and measure == "bits_per_byte",
                    note=f"p = {place.p_value:.3g}",
                )
            )
    return found


def pruning_findings(run: Run) -> list[Finding]:
    """C1-C4 from a run of notebook 01."""
    seed = run.record["parameters"]["seed"]
    needed = [BASELINE, CLAIMED_ARM]
    answers, texts = (t[t.arm.isin(needed)] for t in (run.read("answers"), run.read("texts")))
    plain = answers[answers.wording == "plain"]
    return [
        *retention_findings(
            question_estimates(plain, seed=seed),
            text_estimates(texts, seed=seed),
            primary_text=run.record["parameters"]["text_sets"][0],
        ),
        *null_findings(run.read("null")),
    ]
