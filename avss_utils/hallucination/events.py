"""What is asked of a model: questions with true, false and placebo answers, to be contrasted."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from avss_utils.corpora import (
    OpenQuestion,
    answer_prompt,
    false_against_false,
    irrelevant,
    load_open,
    paired,
    set_name,
    standard_split,
)
from avss_utils.hallucination.testing import Pairs

PAIRED, FALSE_FALSE, IRRELEVANT = "false against true", "false against false", "irrelevant"
# Answers of a question by their place in ``asked``: the pairs of each kind are two of them.
_PLACES = {PAIRED: (0, 1), FALSE_FALSE: (2, 3), IRRELEVANT: (0, 4)}
N_ANSWERS = 5


@dataclass(frozen=True)
class Events:
    """Questions of one part of a set, each with five answers: true, false, two for a placebo, and
    a true answer to another question.

    ``asked``: (prompt, answers) a question, as ``tokens.collect_answers`` takes them; ``origin``:
    where each false answer comes from, published or borrowed, (n_questions,).
    """

    name: str
    questions: tuple[OpenQuestion, ...]
    asked: tuple[tuple[str, tuple[str, ...]], ...]
    origin: np.ndarray

    def pairs(self, kind: str, *, only: np.ndarray | None = None) -> Pairs:
        """The pairs of a kind, of the questions numbered ``only`` if given.

        "false against true"; "false against false", where the first false answer stands for the
        true one; "irrelevant", the true answer to another question against the true one.
        """
        questions = np.arange(len(self.asked)) if only is None else np.asarray(only)
        first, second = _PLACES[kind]
        start = questions * N_ANSWERS
        return Pairs(start + first, start + second, len(self.asked) * N_ANSWERS)


def set_events(
    name: str, *, part: str, n_questions: int, wording: str, seed: int
) -> tuple[Events, dict]:
    """Events of the first ``n_questions`` of a part of an open set, and the set's identity.

    Answers are borrowed within the part, so that none of another part is seen.
    """
    corpus = load_open(name)
    rows = standard_split(corpus)[part][:n_questions]
    return events_of(rows, name, wording=wording, seed=seed), corpus.identity


def events_of(rows: Sequence[OpenQuestion], name: str, *, wording: str, seed: int) -> Events:
    """Events of these rows; ``name`` is their set, whose prompt is taken."""
    kinds = (paired, false_against_false, irrelevant)
    asked, origins = [], []
    for pair, placebo, other in zip(*(make(rows, seed=seed) for make in kinds), strict=True):
        answers = (pair.true, pair.false, placebo.true, placebo.false, other.false)
        asked.append(answer_prompt(pair.question, answers, name, wording))
        origins.append(pair.origin)
    return Events(set_name(name), tuple(rows), tuple(asked), np.array(origins))
