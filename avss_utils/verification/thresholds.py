"""Checks of notebook 04: losses without blocks, scores, plans, and what they are judged by."""

from collections.abc import Iterator

import numpy as np

from avss_utils import healing, rights, stability
from avss_utils.verification.derived import (
    check_plans,
    n_drops,
)
from avss_utils.verification.judged import check_texts
from avss_utils.verification.parts import WRITTEN, Part, alike, each, holds, numbers, same
from avss_utils.verification.subject import Subject, first

NATS_A_TOKEN = 2e-3  # float32 on both machines
N_QUESTIONS = 6  # of every task
TOO_LONG = "of too many tokens to run again"


def check_curve(subject: Subject, name: str, arms: list[str], counts: list[int], n_random: int):
    """Plans of a table from `scores`, every arm at every number of blocks."""
    table = subject.read(name)
    wanted = [
        (arm, n) for n in counts for arm in (*arms, *(f"random {i}" for i in range(n_random)))
    ]
    yield same("every arm", table[["arm", "n_dropped"]], np.array(wanted, dtype=object))
    yield from check_plans(table, subject.read("scores"), n_random=n_random, seed=subject.seed)


def plans(subject: Subject) -> Iterator[Part]:
    """``check_curve`` of the curves."""
    counts = n_drops(subject, subject["drop_counts"])
    yield from check_curve(subject, "plans", subject["arms"], counts, subject["n_random"])


def opposites(subject: Subject) -> Iterator[Part]:
    """``check_curve`` of both ends of variance and sparsity."""
    arms = ["variance", "variance:highest", "sparsity", "sparsity:highest"]
    yield from check_curve(subject, "opposites", arms, [subject.n_drop], 0)


def tried(subject: Subject) -> Iterator[Part]:
    """``check_curve`` of the candidates."""
    arms = [*subject["candidates"], "greedy", "leave-one-out"]
    yield from check_curve(subject, "tried", arms, [subject.n_drop], 0)


def confirm(subject: Subject) -> Iterator[Part]:
    """``check_curve`` of what is confirmed."""
    yield from check_curve(subject, "confirm", subject["confirm_arms"], [subject.n_drop], 0)


def healed_plans(subject: Subject) -> Iterator[Part]:
    """``check_curve`` of what is healed."""
    n_random = min(1, subject["n_random"])
    yield from check_curve(
        subject, "healed_plans", subject["heal_arms"], [subject.n_drop], n_random
    )


def check_development(subject: Subject) -> Iterator[Part]:
    """Plans from `tried`, means and order; the losses are of too many tokens to run again."""
    table, candidates = subject.read("development"), subject.read("tried")
    by_arm = candidates.set_index("arm")["drop"]
    pruned = table[table.arm != "full"]
    yield same("plans from `tried`", pruned["drop"], by_arm.reindex(pruned.arm))
    yield same("arms", sorted(table.arm), sorted(["full", *candidates.arm]))
    names = subject["development_sets"]
    yield numbers("means", table["mean"], table[names].mean(axis=1), WRITTEN, relative=True)
    yield holds("best first", table["mean"].diff().dropna() >= 0)
    alike_rows = table.groupby("drop")[names].nunique()
    yield holds("equal plans, equal losses", alike_rows == 1)
    yield holds(f"losses {TOO_LONG}: in range", table[names].apply(lambda c: c.between(0, 30)))


def check_set_plans(subject: Subject, name: str, criteria: list[str], counts: list[int]):
    """All rows from `orders`."""
    table = subject.read(name)
    again = stability.set_plans(subject.read("orders"), criteria, n_drops=counts)
    for column in table.columns:
        yield same("from `orders`", table[column], again[column])


def elsewhere(subject: Subject) -> Iterator[Part]:
    """``check_set_plans`` at one number of blocks."""
    yield from check_set_plans(subject, "elsewhere", subject["stable_criteria"], [subject.n_drop])


def moving(subject: Subject) -> Iterator[Part]:
    """``check_set_plans`` of the curves."""
    counts = n_drops(subject, subject["drop_counts"])
    yield from check_set_plans(subject, "moving", subject["moving_criteria"], counts)


def check_question_rows(subject: Subject, name: str, tasks: list[str], n: int) -> Iterator[Part]:
    """All rows from the data."""
    table = subject.read(name)
    yield same("tasks", list(dict.fromkeys(table.task)), tasks)

    def of_task(task: str) -> Iterator[Part]:
        again = rights.question_table(subject.suite(tasks=[task], n_questions=n))
        own = table[table.task == task]
        for column in ("row_id", "n_choices"):
            yield same("all rows from the data", own[column], again[column])

    yield from each(tasks, of_task)


def check_rights(
    subject: Subject, name: str, tasks: list[str], questions: str, tables: list[str]
) -> Iterator[Part]:
    """The first questions of every task, whole and by the plan that is right most often."""
    table, asked = subject.read(name), subject.read(questions)
    to_judge = dict(rights.plans_to_judge(*map(subject.read, tables)))
    rows = [(arm, task) for arm in to_judge for task in tasks]
    yield same("every plan and task", table[["arm", "task"]], np.array(rows, dtype=object))
    sizes = table.task.map(asked.groupby("task").size())
    yield holds(
        "a mark a question", (table.right.str.len() == sizes) & table.right.str.fullmatch("[.x]*")
    )
    shares = table.assign(share=[rights.as_numbers(r).mean() for r in table.right])
    means = shares[shares.arm != "full"].groupby("arm", sort=False).share.mean()
    at_ratio = [arm for arm in means.index if len(to_judge[arm]) == subject.n_drop]
    arms = ["full", means[at_ratio].idxmax()]

    def of_task(task: str) -> Iterator[Part]:
        suite = subject.suite(tasks=[task], n_questions=N_QUESTIONS)
        for arm in arms:
            again = rights.right_rows(subject.loaded, suite, (arm, to_judge[arm])).right.iloc[0]
            own = first(table, 1, arm=arm, task=task).right.iloc[0][: len(again)]
            yield alike("right answers, whole and pruned", list(own), list(again))

    yield from each(tasks, of_task)


def all_rights(subject: Subject) -> Iterator[Part]:
    """``check_rights`` of the curves."""
    tables = ["plans", "opposites", "elsewhere", "moving", "healed_plans"]
    yield from check_rights(subject, "rights", subject["tasks"], "questions", tables)


def confirm_rights(subject: Subject) -> Iterator[Part]:
    """``check_rights`` of the tasks seen nowhere else."""
    yield from check_rights(
        subject, "confirm_rights", subject["confirm_tasks"], "confirm_questions", ["confirm"]
    )


def texts(subject: Subject) -> Iterator[Part]:
    """``check_texts`` of the full model and of the plan that keeps the texts best."""
    table = subject.read("texts")
    arms = dict(
        rights.plans_to_judge(
            *map(subject.read, ["plans", "opposites", "elsewhere", "moving", "healed_plans"])
        )
    )
    yield same("every plan", list(dict.fromkeys(table.arm)), list(arms))
    sums = table.groupby("arm").nll.sum()
    at_ratio = [arm for arm in sums.index if len(arms[arm]) == subject.n_drop]
    best = sums[at_ratio].idxmin()
    yield from check_texts(subject, [("full", ()), (best, arms[best])])


def check_healed(subject: Subject) -> Iterator[Part]:
    """Every arm and seed, marks and bytes of as many questions and texts; nothing trained again."""
    table, pruned = subject.read("healed"), subject.read("healed_plans")
    texts_read, asked = subject.read("texts"), subject.read("questions")
    arms = healing.healing_arms(pruned, n_seeds=subject["n_heal_seeds"])
    wanted = [
        (name, seed, own)
        for name, _, seed in arms
        for own in (*subject["tasks"], *subject["text_sets"])
    ]
    yield same(
        "every arm, seed and set", table[["arm", "seed", "set"]], np.array(wanted, dtype=object)
    )
    marks, rest = table.dropna(subset="right"), table.dropna(subset="nll")
    sizes = marks["set"].map(asked.groupby("task").size())
    yield holds(
        "trainings of a minute each, not repeated: a mark a question",
        (marks.right.str.len() == sizes) & marks.right.str.fullmatch("[.x]*"),
    )
    n_bytes = texts_read[texts_read.arm == "full"].groupby("text_set").n_bytes.sum()
    yield numbers("bytes from `texts`", rest.n_bytes, rest["set"].map(n_bytes), 0)
    nats = texts_read.groupby(["arm", "text_set"]).nll.sum()
    before = np.array([nats[row.arm, row.set] for row in rest.itertuples()])
    full = (rest.arm == "full").to_numpy()
    # training lowers the loss of every pruned model, and moves the whole one little
    yield holds(
        "losses below those before training, or near",
        rest.nll.to_numpy() < before * np.where(full, 1.1, 1.0),
    )


CHECKS = {
    "confirm": confirm,
    "confirm_questions": lambda s: check_question_rows(
        s, "confirm_questions", s["confirm_tasks"], s["n_confirm"]
    ),
    "confirm_rights": confirm_rights,
    "development": check_development,
    "elsewhere": elsewhere,
    "healed": check_healed,
    "healed_plans": healed_plans,
    "moving": moving,
    "opposites": opposites,
    "plans": plans,
    "questions": lambda s: check_question_rows(s, "questions", s["tasks"], s["n_questions"]),
    "rights": all_rights,
    "texts": texts,
    "tried": tried,
}
