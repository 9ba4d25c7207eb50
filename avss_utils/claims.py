"""Tables of a run -> findings on the claims C1-C11 of the papers, one function a notebook.

Each claim has one primary measurement, declared here before it is run; the others are exploratory.
Thresholds are the papers' own: "over 90 %" of performance, better than chance at the 5 % level.
"""

from collections.abc import Callable

import pandas as pd

from avss_utils.mechanisms import correlations, of_criterion
from avss_utils.retention import BASELINE, pick, question_estimates, text_estimates, text_gap
from avss_utils.rights import plan_name
from avss_utils.runs import Run
from avss_utils.statistics import against_null
from avss_utils.verdicts import Finding, finding

CLAIMS = {
    "C1": "Pruning the lowest 25 % of layers by AVSS keeps over 90 % of question answering.",
    "C2": "The same for language modelling.",
    "C3": "The same for sentiment classification.",
    "C4": "AVSS chooses layers better than chance.",
    "C5": "A high-variance layer is an important layer.",
    "C6": "A high-sparsity layer is a redundant layer.",
    "C7": "Hallucination has its own pattern of variance and sparsity.",
    "C8": "HSAV and HSS identify hallucination-prone layers precisely.",
    "C9": "Contrastive learning on those layers lowers the hallucination rate by up to 12 %.",
    "C10": "ECE falls by 34 % on NQ, SciQ and WikiQA.",
    "C11": "Choosing the layers by EAVSS is what helps.",
}
KEPT, LEVEL = 0.9, 0.05
PRIMARY_TASK, SENTIMENT, CLAIMED_ARM = "sciq", "sst2", "avss"


def retention_findings(
    questions: pd.DataFrame, texts: pd.DataFrame, *, primary_text: str, arm: str = CLAIMED_ARM
) -> list[Finding]:
    """C1-C3 for one arm from the tidy estimates of ``retention``, plain wording.

    Primary: raw retention of SciQ, bits retention of ``primary_text``, raw retention of SST-2.
    A task on which the full model's interval reaches chance cannot test anything.
    """
    found = []
    plain = questions[questions.wording == "plain"]
    for task in plain.task.unique():
        claim = "C3" if task == SENTIMENT else "C1"
        above = pick(plain, task=task, arm=BASELINE, measure="above chance")
        for measure in ("raw retention", "corrected retention"):
            found.append(
                finding(
                    claim,
                    f"{measure}, {task}",
                    pick(plain, task=task, arm=arm, measure=measure),
                    threshold=KEPT,
                    testable=above.low > 0,
                    primary=task in (PRIMARY_TASK, SENTIMENT) and measure == "raw retention",
                )
            )
    for text_set in texts.text_set.unique():
        estimate = pick(texts, text_set=text_set, arm=arm, measure="bits retention")
        found.append(
            finding(
                "C2",
                f"bits retention, {text_set}",
                estimate,
                threshold=KEPT,
                primary=text_set == primary_text,
            )
        )
    return found


def null_findings(null: pd.DataFrame, *, arm: str = CLAIMED_ARM) -> list[Finding]:
    """C4 from the null table: the share of random sets at least as good as the arm.

    The claim needs that share below 5 %. Primary: bits per byte against uniform random sets.
    """
    own = null[null.null == arm].iloc[0]
    found = []
    for kind in ("random", "random-protected"):
        sets = null[null.null == kind]
        for measure, sign in _null_measures(null).items():
            place = against_null(sign * own[measure], sign * sets[measure].to_numpy())
            found.append(
                finding(
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


def mechanism_findings(run: Run) -> list[Finding]:
    """C5 and C6 from a run of notebook 04.

    Primary: rank correlation with the loss that removing a block alone adds, above 0: of variance,
    and of minus sparsity ("sparse is redundant"). Beside it the break condition: removing the
    blocks that the statistic calls important must cost more bits per byte than removing the others.
    """
    seed = run.record["parameters"]["seed"]
    scores = run.read("scores")
    scores = scores[scores.criterion.isin(["variance", "sparsity"])]
    table = correlations(scores, run.read("leave_one_out"), seed=seed)
    opposite = run.read("opposites").set_index("arm")["drop"].map(plan_name)
    texts, found = run.read("texts"), []
    for claim, name in (("C5", "variance"), ("C6", "sparsity")):
        row = table[table.criterion == name].iloc[0]
        sign = "minus " * (name == "sparsity")
        found.append(
            finding(
                claim,
                f"rank correlation of {sign}{name} with leave-one-out loss",
                of_criterion(table, name),
                threshold=0.0,
                primary=True,
                note=f"p = {row.p_shift:.3g} by shifts; {row.partial:.2f} given depth",
            )
        )
        gap = text_gap(texts, opposite[f"{name}:highest"], opposite[name], seed=seed)
        found.append(
            finding(
                claim,
                f"bits per byte, blocks {name} calls important less those it does not",
                gap,
                threshold=0.0,
                primary=False,
            )
        )
    return found


FINDINGS: dict[str, Callable[[Run], list[Finding]]] = {
    "01_avss_pruning": pruning_findings,
    "04_pruning_thresholds": mechanism_findings,
}

_KIND = {"random": "uniform random", "random-protected": "end-protected random"}


def _null_measures(null: pd.DataFrame) -> dict[str, int]:
    """Column -> +1 where higher is better, -1 where lower is."""
    accuracies = [c for c in null.columns if c.startswith("accuracy_")]
    return {"bits_per_byte": -1, **dict.fromkeys(accuracies, 1)}
