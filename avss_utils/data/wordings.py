"""Prompts: each kind of question in two phrasings, and without the question."""

from collections.abc import Iterable

from avss_utils.data.own import is_own
from avss_utils.data.registry import SPECS
from avss_utils.data.rows import OpenQuestion, Question
from avss_utils.errors import UsageError

# "answer-only" shows what a model does from its taste for an answer alone. The continuations'
# plain prompt is nothing but the question, so a word has to stand in for what is left out.
_ASKED = {
    "plain": "Question: {question}\nAnswer:",
    "second": "{question}\nThe correct answer is",
    "answer-only": "Answer:",
}
_FINISHED = {
    "plain": "{question}",
    "second": "This text is finished in the most sensible way.\n\n{question}",
    "answer-only": "Ending:",
}
WORDINGS: dict[str, dict[str, str]] = {
    "question": _ASKED,
    "open": _ASKED,
    "passage": _ASKED | {"plain": "{question}\nAnswer:"},  # it ends with "Question: ...?"
    "continuation": _FINISHED,
    "last word": _FINISHED,
    "sentiment": {
        "plain": "Review: {question}\nSentiment:",
        "second": "{question}\nThe opinion of this film is",
        "answer-only": "Sentiment:",
    },
}


def prompt(question: Question, corpus_name: str, wording: str) -> tuple[str, tuple[str, ...]]:
    """The prompt, and each choice as the text that continues it, leading space included.

    ``wording``: plain, second, or answer-only. Raises UsageError for an unknown one.
    """
    return answer_prompt(question, question.choices, corpus_name, wording)


def answer_prompt(
    question: Question | OpenQuestion, answers: Iterable[str], corpus_name: str, wording: str
) -> tuple[str, tuple[str, ...]]:
    """``prompt`` with any answers, as those of a ``pairing.Pair``: closed-book, without context."""
    check_wording(wording, [corpus_name])
    text = _wordings(corpus_name)[wording].format(question=question.question)
    space = "" if text[-1].isspace() else " "
    return text, tuple(space + answer for answer in answers)


def check_wording(wording: str, corpus_names: Iterable[str]) -> None:
    """Raise UsageError unless every one of these sets is asked in this wording."""
    for name in corpus_names:
        if wording not in _wordings(name):
            allowed = ", ".join(_wordings(name)) or "no wording: it is not a question set"
            raise UsageError(f"unknown wording {wording!r} for {name!r}: choose from {allowed}")


def _wordings(corpus_name: str) -> dict[str, str]:
    if is_own(corpus_name):
        return WORDINGS["question"]
    return WORDINGS.get(SPECS[corpus_name].kind, {}) if corpus_name in SPECS else {}
