"""What a model says by itself, and whether it is right, nearly right, or a refusal.

The rules are those of SQuAD (Rajpurkar, Zhang, Lopyrev and Liang 2016, "SQuAD: 100,000+ Questions
for Machine Comprehension of Text", and its evaluation script), for text in any script. ``answers``
are a question's right answers (aliases), of which the best counts.
"""

from collections import Counter
from collections.abc import Sequence

import pandas as pd

from avss_utils.data.answer_sets import Events
from avss_utils.data.rows import normalised
from avss_utils.measure.decoding import greedy_answers
from avss_utils.models.load import LoadedModel

RIGHT, FALSE, ABSTAINED = "right", "wrong", "abstained"  # "false" in a file reads as a boolean
# "n/a" and "none" are not here: sodium's symbol is Na, and none is a right answer at times
REFUSALS = (
    "unknown",
    "unanswerable",
    "not known",
    "not sure",
    "unsure",
    "no answer",
    "no idea",
    "don't know",
    "do not know",
    "it is unknown",
    "it is not known",
    "the answer is unknown",
    "there is no answer",
)
REFUSING_OPENINGS = (
    "I don't know",
    "I do not know",
    "I'm not sure",
    "I am not sure",
    "I'm unsure",
    "I have no idea",
    "I can't answer",
    "I cannot answer",
)


def matches(text: str, answers: Sequence[str]) -> bool:
    """Is the text, normalised, one of the answers? (SQuAD's exact match.)

    A text without a word matches nothing.
    """
    return normalised(text) in _normalised(answers)


def contains(text: str, answers: Sequence[str]) -> bool:
    """Do the words of some answer stand in the text, one after the other, normalised?

    Looser than ``matches``: "not Paris" contains "Paris".
    """
    padded = f" {normalised(text)} "
    return any(f" {answer} " in padded for answer in _normalised(answers))


def f1(text: str, answers: Sequence[str]) -> float:
    """Harmonic mean of precision and recall of words, 0 to 1, at the best answer (SQuAD's F1)."""
    words = normalised(text).split()
    scores = [0.0]
    for wanted in map(str.split, _normalised(answers)):
        common = (Counter(words) & Counter(wanted)).total()
        scores.append(2 * common / (len(words) + len(wanted)))
    return max(scores)


def is_abstention(text: str) -> bool:
    """Does the text answer nothing: no word, one of REFUSALS, or beginning as REFUSING_OPENINGS?

    A song may be called "I Don't Know How to Love Him": ask ``matches`` first.
    """
    normal = normalised(text)
    openings = tuple(normalised(opening) + " " for opening in REFUSING_OPENINGS)
    return not normal or normal in _normalised(REFUSALS) or f"{normal} ".startswith(openings)


def _normalised(answers: Sequence[str]) -> list[str]:
    """Every answer normalised, without those of punctuation alone."""
    if isinstance(answers, str):  # its letters would pass for answers
        raise TypeError(f"answers must be a sequence of texts, not the text {answers!r}")
    return [normal for answer in answers if (normal := normalised(answer))]


def generated_answers(
    loaded: LoadedModel, events: Events, *, max_new_tokens: int, batch_tokens: int
) -> tuple[pd.DataFrame, list[str]]:
    """Greedy answers to the questions, judged; and their texts.

    Columns: set, row_id, label (right: one of the aliases, normalised; abstained: nothing or a
    refusal; wrong: anything else), correct (whether it is right), contains (the looser rule: an
    alias' words within the answer), f1, n_tokens, log_probability and entropy (nats; NaN for an
    empty answer's entropy).
    """
    found = greedy_answers(
        loaded.model,
        loaded.tokenizer,
        [prompt for prompt, _ in events.asked],
        max_new_tokens=max_new_tokens,
        batch_tokens=batch_tokens,
    )
    rows = [
        (
            events.name,
            question.row_id,
            judged(own.text, question.answers),
            contains(own.text, question.answers),
            f1(own.text, question.answers),
            len(own.ids),
            own.log_probability,
            own.entropy,
        )
        for question, own in zip(events.questions, found, strict=True)
    ]
    names = ["set", "row_id", "label", "contains", "f1", "n_tokens", "log_probability", "entropy"]
    table = pd.DataFrame(rows, columns=names)
    table.insert(3, "correct", table.label == RIGHT)
    return table, [own.text for own in found]


def judged(text: str, answers: tuple[str, ...]) -> str:
    """right, wrong or abstained, by SQuAD's exact match with any alias."""
    if matches(text, answers):
        return RIGHT
    return ABSTAINED if is_abstention(text) else FALSE
