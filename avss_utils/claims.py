"""Tables of a run -> findings on the claims C1-C11 of the papers, one function a notebook.

Each claim has one primary measurement, declared here before it is run; the others are exploratory.
Thresholds are the papers' own: "over 90 %" of performance, better than chance at the 5 % level.
"""

from collections.abc import Callable

import pandas as pd

from avss_utils.corpora import set_name
from avss_utils.hallucination.events import PAIRED
from avss_utils.hallucination.pruned import plan_table
from avss_utils.mechanisms import correlations, of_criterion
from avss_utils.retention import BASELINE, pick, question_estimates, text_estimates, text_gap
from avss_utils.rights import plan_name
from avss_utils.runs import Run
from avss_utils.statistics import Estimate, against_null
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
SMALL_EFFECT = 0.2  # Cohen's: what is called a pattern has to reach it
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
            finding(
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
        finding(
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
            finding(
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
        "raw retention": ("choice accuracy", 0.5),
        "corrected retention": ("choice accuracy", 0.5),
        "exact match retention": ("exact match", 0.0),
    }
    for name in plans.set.unique():
        for measure, (level, chance) in base.items():
            found.append(
                finding(
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


FINDINGS: dict[str, Callable[[Run], list[Finding]]] = {
    "01_avss_pruning": pruning_findings,
    "02_hallucination_metrics": hallucination_findings,
    "04_pruning_thresholds": mechanism_findings,
}

_KIND = {"random": "uniform random", "random-protected": "end-protected random"}


def _null_measures(null: pd.DataFrame) -> dict[str, int]:
    """Column -> +1 where higher is better, -1 where lower is."""
    accuracies = [c for c in null.columns if c.startswith("accuracy_")]
    return {"bits_per_byte": -1, **dict.fromkeys(accuracies, 1)}
