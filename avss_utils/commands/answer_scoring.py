"""A model's own answers to a user's questions, and how likely each of them is to be wrong."""

from collections.abc import Iterator, Sequence
from math import ceil

import numpy as np
import pandas as pd

from avss_utils.commands.inputs import BATCH_TOKENS
from avss_utils.data.answer_sets import FEW_SHOT, N_EXAMPLES, PLAIN, Events, prompted, unpaired
from avss_utils.data.loading import load_open, standard_split
from avss_utils.data.own import is_own
from avss_utils.data.rows import OpenQuestion, normalised
from avss_utils.errors import UsageError
from avss_utils.measure.own_answers import ABSTAINED, FALSE, RIGHT, generated_answers
from avss_utils.models.blocks import context_length
from avss_utils.models.load import LoadedModel
from avss_utils.scores.own_errors import FEWEST
from avss_utils.stats.detection import auroc_estimate, brier_estimate, detect, fit_detector

N_FOLDS = 5
# Held against the committed records by a test: the rule, stated before the runs, was to keep a
# detector only if it beats log-probability with its whole interval on two models.
WHY = (
    "why log-probability: of 19 detectors, some of which read the blocks, none was better at "
    "finding a model's own wrong answers, with its whole 95 % interval, on any of four models "
    "(chapter 2)"
)


def questions_to_ask(name: str, *, prompt: str, examples: str) -> tuple[Events, Events]:
    """The evaluation questions of a set (of a file all), and those that are shown before each.

    What is shown, in the few-shot prompt alone, are the first calibration questions of the set
    ``examples`` that are not asked. Questions of a published set whose answers nothing can match,
    such as "---", are left out. Raises UsageError for an unknown or broken set, such answers in a
    file, or where no example is left.
    """
    every = standard_split(load_open(name))["evaluation"]
    rows = [row for row in every if any(map(normalised, row.answers))]
    if is_own(name) and len(rows) < len(every):
        lost = next(row for row in every if not any(map(normalised, row.answers)))
        raise UsageError(
            f"no answer of row {lost.row_id!r} of {name!r} has a letter or a digit, so that "
            "nothing the model says would be right: write it in words"
        )
    shown = _examples(rows, name, examples) if prompt == FEW_SHOT else ()
    return unpaired(rows, name, wording=PLAIN), unpaired(shown, examples, wording=PLAIN)


def _examples(asked: Sequence[OpenQuestion], name: str, examples: str) -> list[OpenQuestion]:
    theirs = {normalised(row.question) for row in asked}
    part = standard_split(load_open(examples))["calibration"]
    shown = [row for row in part if normalised(row.question) not in theirs][:N_EXAMPLES]
    if not shown:
        raise UsageError(
            f"{examples!r} has no question to show that {name!r} does not ask: name another set "
            f"with --answers, or pass --prompt {PLAIN}"
        )
    return shown


def answered(
    loaded: LoadedModel, asked: Events, shown: Events, *, prompt: str, new_tokens: int
) -> pd.DataFrame:
    """The model's likeliest answer to each question, one row a question, in their order.

    Columns: row_id, question, answer (up to ``new_tokens`` tokens), label (right: an alias itself,
    normalised; abstained: nothing or a refusal; wrong: anything else), log_probability (nats, of
    the answer's tokens together; 0 for an empty one), n_tokens. Raises UsageError for an unknown
    prompt, one that the model has no room for, or logits that are not finite.
    """
    events = prompted(asked, loaded.tokenizer, prompt, shown)
    _check_room(loaded, events, new_tokens)
    table, texts = generated_answers(
        loaded, events, max_new_tokens=new_tokens, batch_tokens=BATCH_TOKENS
    )
    table.insert(1, "answer", texts)
    table.insert(1, "question", [question.question for question in events.questions])
    return table[["row_id", "question", "answer", "label", "log_probability", "n_tokens"]]


def _check_room(loaded: LoadedModel, events: Events, new_tokens: int) -> None:
    """Greedy answers would cut a long prompt's beginning: here a user can do better."""
    limit = context_length(loaded.model)
    for question, (prompt, _) in zip(events.questions, events.asked, strict=True):
        needed = len(loaded.tokenizer(prompt)["input_ids"]) + new_tokens
        if limit is not None and needed > limit:
            raise UsageError(
                f"the prompt of row {question.row_id!r} and its answer need {needed} tokens, and "
                f"the model has positions for {limit}: shorten the question, pass --prompt "
                f"{PLAIN}, or fewer --new-tokens"
            )


def p_wrong(table: pd.DataFrame, *, seed: int) -> np.ndarray:
    """P(wrong) of each answer of ``answered``, (n_rows,) in [0, 1]; NaN for an abstention.

    By logistic regression on the log-probability of the answers to other questions (N_FOLDS folds,
    each with its share of wrong answers), so that no answer is judged by its own label. All NaN
    where fewer than FEWEST questions were answered rightly, or wrongly.
    """
    from sklearn.model_selection import StratifiedGroupKFold  # a second, and few commands need it

    found = np.full(len(table), np.nan)
    if min(_counts(table)[:2]) < FEWEST:
        return found
    own = np.flatnonzero(table.label != ABSTAINED)
    surprise, wrong, questions = _judged(table)
    folds = StratifiedGroupKFold(N_FOLDS, shuffle=True, random_state=seed)
    for fit, judge in folds.split(surprise, wrong, questions):
        detector = fit_detector(surprise[fit, None], wrong[fit], seed=seed)
        found[own[judge]] = detect(detector, surprise[judge, None])
    return found


def summary(table: pd.DataFrame, *, seed: int) -> Iterator[str]:
    """What a reader of ``answered`` with its p_wrong has to know, a sentence a line.

    How many answers were right; how well log-probability finds the wrong ones and how well p_wrong
    is calibrated, with 95 % intervals over questions, or how many questions that needs; and why it
    is log-probability.
    """
    labels = (f"{(table.label == label).sum()} {label}" for label in (RIGHT, FALSE, ABSTAINED))
    yield f"answers, by exact match: {', '.join(labels)}"
    if table.p_wrong.isna().all():
        yield _too_few(table)
    else:
        surprise, wrong, questions = _judged(table)
        p = table.p_wrong.dropna().to_numpy()
        area = auroc_estimate(surprise, wrong, questions, seed=seed)
        yield f"AUROC of log_probability for a wrong answer: {area}"
        error, alone = brier_estimate(p, wrong, questions, seed=seed), wrong.mean()
        yield (
            f"Brier score of p_wrong, each from answers to other questions: {error}; "
            f"{alone * (1 - alone):.3g} for the share of wrong answers alone"
        )
    yield WHY


def _too_few(table: pd.DataFrame) -> str:
    """How many questions p_wrong needs, by the shares of right and wrong answers seen."""
    right, wrong, asked = _counts(table)
    seen = min(right, wrong)
    about = f"about {ceil(FEWEST * asked / seen)}" if seen else f"more than {FEWEST * asked}"
    return (
        f"p_wrong needs {about} such questions, {FEWEST} answered rightly and {FEWEST} wrongly: of "
        f"{asked} asked {right} were right and {wrong} wrong"
    )


def _counts(table: pd.DataFrame) -> tuple[int, int, int]:
    """Different questions that were answered rightly, that were wrongly, and all."""
    questions = _same(table)
    right, wrong = (questions[table.label == label].nunique() for label in (RIGHT, FALSE))
    return right, wrong, questions.nunique()


def _judged(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Surprise (nats), whether it is wrong, and the question of each answer but abstentions."""
    own = table[table.label != ABSTAINED]
    wrong = (own.label == FALSE).to_numpy()
    return -own.log_probability.to_numpy(), wrong, _same(own).to_numpy(str)


def _same(table: pd.DataFrame) -> pd.Series:
    """Questions as they are compared: signs count, for 3 + 4 is not 3 - 4; spaces do not."""
    return table.question.str.casefold().str.split().str.join(" ")
