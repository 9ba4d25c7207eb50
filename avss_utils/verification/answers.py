"""Checks of notebook 02's tables of what the model chooses and answers, whole and pruned."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from avss_utils.corpora import set_name
from avss_utils.generation import f1
from avss_utils.hallucination import pruned
from avss_utils.hallucination.events import Events, prompted
from avss_utils.hallucination.generated import ABSTAINED, FALSE, RIGHT, generated_answers, judged
from avss_utils.rights import plans_to_judge
from avss_utils.verification.derived import check_plans as plans_from_scores
from avss_utils.verification.derived import sampled_plans
from avss_utils.verification.parts import WRITTEN, Part, alike, each, holds, numbers, same
from avss_utils.verification.studied import events_of
from avss_utils.verification.subject import BATCH_TOKENS, Subject, first

N_CHOICES = 5  # questions of every set
N_ANSWERED = 1
PROBABILITY = 0.15  # scores of two answers were rounded to bfloat16
NATS = 0.5  # a whole answer, likewise
PARTED = 0.4  # share of answers that may go another way after a near-tie


def answered_form(table: pd.DataFrame) -> Part:
    """What the columns of judged answers say of each other."""
    right, empty = table.label == RIGHT, table.n_tokens == 0
    return holds(
        "form of all rows",
        table.label.isin([RIGHT, FALSE, ABSTAINED])
        & table.f1.between(0, 1)
        & (~right | ((table.f1 > 1 - WRITTEN) & table.contains))
        & (~empty | ((table.label == ABSTAINED) & table.entropy.isna()))
        & (table.log_probability <= 0)
        & (empty | (table.entropy >= 0)),
    )


def compared_answers(own: pd.DataFrame, again: pd.DataFrame) -> Iterator[Part]:
    """Greedy answers beside recorded ones: labels, and how many are the same answer."""
    yield same("questions", own.row_id, again.row_id)
    yield alike("labels", own.label, again.label)
    gap = np.abs(own.log_probability.to_numpy() - again.log_probability.to_numpy())
    parted = (gap > NATS) | (own.n_tokens.to_numpy() != again.n_tokens.to_numpy())
    what = "answers that part from the recorded after a near-tie"
    yield Part(what, len(own), float(parted.mean()), PARTED, is_share=True)


def asked_of(subject: Subject, name: str, prompt: str, n: int) -> Events:
    """The first evaluation questions of a set in a prompt."""
    before, after = events_of(subject, name)
    return prompted(after.first(n), subject.loaded.tokenizer, prompt, before)


def check_own_answers(subject: Subject) -> Iterator[Part]:
    """The first answers of every set and prompt, given again."""
    table = subject.read("own_answers")
    yield answered_form(table)

    def of_set(name: str) -> Iterator[Part]:
        for prompt in subject["prompts"]:
            events = asked_of(subject, name, prompt, N_ANSWERED)
            options = dict(max_new_tokens=subject["max_new_tokens"], batch_tokens=BATCH_TOKENS)
            again, _ = generated_answers(subject.loaded, events, **options)
            where = {"set": set_name(name), "prompt": prompt}
            yield from compared_answers(first(table, N_ANSWERED, **where), again)

    yield from each(subject["sets"], of_set)


def check_own_examples(subject: Subject) -> Iterator[Part]:
    """Which answers are shown follows from `own_answers`; their texts are judged again."""
    table, answers = subject.read("own_examples"), subject.read("own_answers")
    differs = answers[answers.contains & (answers.label != RIGHT)]
    again = differs.groupby(["set", "prompt"], sort=False).head(2)
    for column in ("set", "prompt", "row_id", "label"):
        yield same("from `own_answers`", table[column], again[column])
    yield numbers("f1 from `own_answers`", table.f1, again.f1, WRITTEN)

    def of_set(name: str) -> Iterator[Part]:
        rows = {q.row_id: q for q in events_of(subject, name)[1].questions}
        own = table[table["set"] == set_name(name)]
        for row in own.itertuples():
            answers = rows[str(row.row_id)].answers
            yield same("judged again", [row.label], [judged(str(row.text), answers)])
            yield numbers("f1 of the text", [row.f1], [f1(str(row.text), answers)], WRITTEN)

    yield from each(subject["sets"], of_set)


def check_own_contrasts(subject: Subject) -> Iterator[Part]:
    """Counts of answers from `own_answers`; their texts, which statistics need, are not kept."""
    table, answers = subject.read("own_contrasts"), subject.read("own_answers")
    kept = answers[answers.label != ABSTAINED]
    for (name, prompt, rule), own in table.groupby(["set", "prompt", "rule"], sort=False):
        part = kept[(kept["set"] == name) & (kept.prompt == prompt)]
        wrong = (part.label == FALSE) if rule == "match" else ~part.contains
        for column, n in (("n", len(part)), ("n_false", int(wrong.sum()))):
            yield numbers("counts from `own_answers`", own[column], np.full(len(own), n), 0)
    yield holds(
        "the rest not again (answers' texts are not kept): form of all rows",
        (table.p >= 1 / (subject["n_permutations"] + 1) - 1e-9)
        & (table.p <= table.p_max + 1e-9)
        & (table.p_max <= 1)
        & (table.value > -1)
        & (np.sign(table.z) == np.sign(table.value))
        & (table.low.isna() | (table.low <= table.high)),
    )


def check_plans(subject: Subject) -> Iterator[Part]:
    """Plans by statistics beside those of a few texts; the tail, and random ones drawn again."""
    plans = subject.read("plans")
    blocks = range(subject.n_blocks)
    nothing = pd.DataFrame({"criterion": "", "block": blocks, "score": np.nan})
    random = dict(n_random=subject["n_random"], seed=subject.seed, explain=False)
    yield from plans_from_scores(plans, nothing, **random)
    yield from _beside_curves(subject, plans)
    yield from sampled_plans(subject, plans[~plans.arm.str.startswith("random ")])


def _beside_curves(subject: Subject, plans: pd.DataFrame) -> Iterator[Part]:
    """Notebook 04 chooses by the same criteria: where its inputs are the same, so are its plans."""
    other = subject.beside("04_pruning_thresholds", "calibration", "seed", "eps", "relative_eps")
    inputs = {"calibration_length": "text_length", "n_calibration": "n_texts"}
    inputs |= {"answer_sets": "sets", "n_answer_questions": "n_calibration"}
    if other is None or any(other[a] != subject[b] for a, b in inputs.items()):
        return
    theirs = other.read("plans")
    both = plans.merge(theirs, on=["arm", "n_dropped"], suffixes=("", "_other"))
    both = both[~both.arm.str.startswith("random ")]
    yield same("the other run of the same, `plans` of 04", both["drop"], both.drop_other)


def judged_arms(subject: Subject) -> list[tuple]:
    """The full model, and the pruned one that chooses best: worse ones do it by chance."""
    choices = subject.read("choices")
    best = choices[choices.arm != "full"].groupby("arm").right.mean().idxmax()
    return [a for a in plans_to_judge(subject.read("plans")) if a[0] in ("full", best)]


def check_choices(subject: Subject) -> Iterator[Part]:
    """The first questions of every set, whole and pruned."""
    table = subject.read("choices")
    yield holds(
        "form of all rows", table.right.isin([0, 0.5, 1]) & table.confidence.between(0.5, 1)
    )
    names = [name for name, _ in plans_to_judge(subject.read("plans"))]
    yield same("arms", list(dict.fromkeys(table.arm)), names)

    def of_set(name: str) -> Iterator[Part]:
        events = events_of(subject, name)[1].first(N_CHOICES)
        for arm in judged_arms(subject):
            again = pruned.choice_rows(subject.loaded, [events], arm, batch_tokens=BATCH_TOKENS)
            own = first(table, N_CHOICES, arm=arm[0], set=set_name(name))
            yield same("questions", own.row_id, again.row_id)
            yield alike("choices", own.right, again.right)
            yield numbers("confidence", own.confidence, again.confidence, PROBABILITY)

    yield from each(subject["sets"], of_set)


def check_answered(subject: Subject) -> Iterator[Part]:
    """The first answers of every set, whole and pruned."""
    table = subject.read("answered")
    yield answered_form(table)
    names = [name for name, _ in plans_to_judge(subject.read("plans"))]
    yield same("arms", list(dict.fromkeys(table.arm)), names)
    if subject["pruned_prompt"] in subject["prompts"]:
        own = subject.read("own_answers").query(f"prompt == {subject['pruned_prompt']!r}")
        both = table[table.arm == "full"].merge(own, on=["set", "row_id"])
        yield alike("the full model's labels from `own_answers`", both.label_x, both.label_y)

    def of_set(name: str) -> Iterator[Part]:
        events = asked_of(subject, name, subject["pruned_prompt"], N_ANSWERED)
        for arm in judged_arms(subject):
            options = dict(max_new_tokens=subject["max_new_tokens"], batch_tokens=BATCH_TOKENS)
            again = pruned.answer_rows(subject.loaded, [events], arm, **options)
            own = first(table, N_ANSWERED, arm=arm[0], set=set_name(name))
            yield from compared_answers(own, again)

    yield from each(subject["sets"], of_set)


CHECKS = {
    "answered": check_answered,
    "choices": check_choices,
    "own_answers": check_own_answers,
    "own_contrasts": check_own_contrasts,
    "own_examples": check_own_examples,
    "plans": check_plans,
}
