"""Checks of notebook 01: what plans are judged by."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd

from avss_utils import arms as arm_plans
from avss_utils import evaluation
from avss_utils.blocks import remove_blocks
from avss_utils.checkpoint import checkpoint_table
from avss_utils.pruning import as_text
from avss_utils.verification.parts import WRITTEN, Part, alike, each, holds, numbers, same
from avss_utils.verification.subject import Subject, first

N_QUESTIONS = 8  # of each task and arm
PROBABILITY = 0.1  # scores of a choice were rounded to bfloat16
NATS_A_TOKEN = 0.02
TIMED = "timings, not repeated: above 0"


def judged_arms(table: pd.DataFrame, plans: list[tuple]) -> list[tuple]:
    """The full model, and the pruned arm that answers best: worse ones do it by chance."""
    pruned = table[table.arm != "full"]
    best = pruned.groupby("arm").p_label.mean().idxmax() if len(pruned) else "full"
    return [arm for arm in plans if arm[0] in ("full", best)]


def check_answers(subject: Subject, name: str, wording: str) -> Iterator[Part]:
    """The first questions of every task again; the form of all rows."""
    table = subject.read(name)
    right, sure = table.label == table.prediction, table.p_label
    tied = (table.beaten < 1) & (table.beaten >= 0.5) & (sure <= 0.5 + 1e-5)  # the earlier choice
    yield holds(
        "form of all rows",
        sure.between(0, 1)
        & table.beaten.between(0, 1)
        & table.prediction.between(0, table.n_choices - 1)
        & table.label.between(0, table.n_choices - 1)
        & np.where(right, (table.beaten == 1) | tied, (table.beaten < 1) & (sure <= 0.5 + 1e-5))
        & (~right | (sure >= 1 / table.n_choices - 1e-5)),
    )
    arms = arm_plans.distinct(subject.read("plans"))
    wanted = [a for a, _ in arms if name == "answers" or a in subject["wording_arms"]]
    yield same("arms", list(dict.fromkeys(table.arm)), wanted)

    def of_task(task: str) -> Iterator[Part]:
        suite = subject.suite(tasks=[task], n_questions=N_QUESTIONS)
        for arm in judged_arms(table, arms):
            again = evaluation.judge_answers(subject.loaded, suite, arm, wording=wording)
            own = first(table, N_QUESTIONS, arm=arm[0], task=task)
            for column in ("row_id", "n_choices", "label"):
                yield same("questions", own[column], again[column])
            yield alike("predictions", own.prediction, again.prediction)
            yield numbers("P(right choice)", own.p_label, again.p_label, PROBABILITY)

    yield from each(subject["tasks"], of_task)


def check_texts(subject: Subject, arms: list[tuple], plain: str = "texts") -> Iterator[Part]:
    """The first window of every text set again, whole and pruned; the form of all rows."""
    table = subject.read(plain)
    yield holds(
        "form of all rows",
        (table.nll > 0)
        & (table.n_tokens > 0)
        & (table.n_bytes > 0)
        & (table.n_tokens < subject["context"]),
    )
    sizes = table.groupby(["text_set", "arm"], sort=False)[["n_tokens", "n_bytes"]].sum()
    for _, own in sizes.groupby("text_set"):
        yield holds("arms read the same text", own.nunique() == 1)

    def of_set(name: str) -> Iterator[Part]:
        size = subject["context"] - 1
        suite = subject.suite(text_sets=[name], n_tokens=size)
        for arm in arms if name == subject["text_sets"][0] else arms[:1]:
            key = ("texts", name, size, arm[1])
            again = subject.bench.once(
                key, lambda arm=arm: evaluation.judge_texts(subject.loaded, suite, arm)
            )
            own = first(table, len(again), arm=arm[0], text_set=name)
            for column in ("row_id", "n_tokens", "n_bytes"):
                yield same("windows", own[column][:1], again[column][:1])
            nats = [(x.nll / x.n_tokens).to_numpy()[:1] for x in (own, again)]
            yield numbers("nats a token of a window", *nats, NATS_A_TOKEN)

    yield from each(subject["text_sets"], of_set)


def texts(subject: Subject) -> Iterator[Part]:
    """``check_texts`` of the full model and of the arm that answers best."""
    arms = arm_plans.distinct(subject.read("plans"))
    yield from check_texts(subject, judged_arms(subject.read("answers"), arms))


def check_null(subject: Subject) -> Iterator[Part]:
    """Sets drawn again; marked ones summed up again; one random set judged again."""
    table, plans = subject.read("null"), subject.read("plans")
    marks = arm_plans.distinct(plans)
    sets = evaluation.null_sets(
        subject.n_blocks, n_drop=subject.n_drop, n=subject["n_null"], seed=subject.seed, marks=marks
    )
    yield same(
        "sets drawn again",
        table["null"] + table["drop"],
        [name + as_text(drop) for name, drop in sets],
    )
    accuracy = f"accuracy_{subject['null_task']}"
    answers, read = subject.read("answers"), subject.read("texts")
    own = answers[answers.task == subject["null_task"]]
    n = subject["null_questions"]
    again = [
        (rows.label == rows.prediction).head(n).mean()
        for rows in (own[own.arm == name] for name, _ in marks)
    ]
    yield numbers(
        "marked sets' accuracy from `answers`", table[accuracy][: len(marks)], again, WRITTEN
    )
    read = read[read.text_set == subject["text_sets"][0]]
    bits = []
    for name, _ in marks:
        rows = read[read.arm == name]
        taken = rows.n_tokens.cumsum() - rows.n_tokens < subject["null_tokens"]
        bits.append(evaluation.bits_per_byte(rows[taken]))
    yield numbers(
        "marked sets' bits a byte from `texts`", table.bits_per_byte[: len(marks)], bits, WRITTEN
    )
    random = len(marks) + subject["n_null"]  # the first that keeps the ends
    suite = subject.suite(tasks=[subject["null_task"]], n_questions=n)
    judged = evaluation.judge_answers(subject.loaded, suite, sets[random])
    yield numbers(
        "accuracy of one random set",
        [table[accuracy][random]],
        [(judged.label == judged.prediction).mean()],
        0.04,
    )
    counts = table[accuracy] * min(n, (own.arm == "full").sum())
    yield holds(
        "the others, too many to judge again: shares of the questions, bits above the full",
        np.isclose(counts, counts.round(), atol=1e-4)
        & table[accuracy].between(0, 1)
        & (table.bits_per_byte >= table.bits_per_byte[0] * 0.99),
    )


def check_costs(subject: Subject) -> Iterator[Part]:
    """Parameters counted again; timings are not repeated."""
    table, arms = subject.read("costs"), arm_plans.distinct(subject.read("plans"))
    yield same("arms", table.arm, [name for name, _ in arms])
    yield holds(TIMED, table.forward_seconds > 0)
    model = subject.loaded.model
    again = [
        sum(p.numel() for p in remove_blocks(model, drop, share_weights=True).parameters())
        for _, drop in arms
    ]
    yield numbers("parameters", table.n_parameters, again, 0)


def check_dtypes(subject: Subject) -> Iterator[Part]:
    """What the other tables judged beside the null's; the other format near it."""
    table, null = subject.read("dtypes"), subject.read("null")
    accuracy = f"accuracy_{subject['null_task']}"
    judged = subject.run.record["device"].rsplit(", ", 1)[-1]
    other = table[table["dtype"] != judged]
    marked = null.drop_duplicates("null").set_index("null")
    for arm, own in table.groupby("arm", sort=False):
        near = marked.loc[arm]
        one = own[own["dtype"] == judged].iloc[0]
        yield numbers(
            f"{judged} from `null`",
            [one[accuracy], one.bits_per_byte],
            [near[accuracy], near.bits_per_byte],
            1e-2,
        )
        far = other[other.arm == arm].iloc[0]
        yield numbers(
            "other format near `null`",
            [far[accuracy], far.bits_per_byte],
            [near[accuracy], near.bits_per_byte],
            0.05,
        )


def check_checkpoint(subject: Subject) -> Iterator[Part]:
    """Saved, loaded and compared again."""
    table = subject.read("checkpoint")
    drop = dict(arm_plans.distinct(subject.read("plans")))["avss"]
    with TemporaryDirectory() as folder:
        again = checkpoint_table(subject.loaded, drop, Path(folder) / "saved", facts={})
    yield numbers(
        "largest difference of logits", table.largest_difference, again.largest_difference, 1e-4
    )
    yield numbers("bytes of weights", table.weight_bytes, again.weight_bytes, 1e-3, relative=True)


CHECKS = {
    "answers": lambda s: check_answers(s, "answers", "plain"),
    "answers_second": lambda s: check_answers(s, "answers_second", "second"),
    "answers_answer-only": lambda s: check_answers(s, "answers_answer-only", "answer-only"),
    "checkpoint": check_checkpoint,
    "costs": check_costs,
    "dtypes": check_dtypes,
    "null": check_null,
    "texts": texts,
}
