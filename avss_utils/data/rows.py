"""What a row is, its stable name, and splits that depend on nothing but that name."""

import hashlib
import string
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from operator import itemgetter

from avss_utils.errors import UsageError


@dataclass(frozen=True)
class Question:
    """A question with at least two choices; ``answer`` is the index of the right one.

    ``context`` is supporting text where the set has one; closed-book prompts leave it out.
    """

    row_id: str
    question: str
    choices: tuple[str, ...]
    answer: int
    context: str = ""

    def __post_init__(self):
        if len(self.choices) < 2 or not 0 <= self.answer < len(self.choices):
            raise ValueError("a question needs two choices or more, the right one among them")
        if not all(choice.strip() for choice in self.choices):
            raise ValueError("a choice is empty")


@dataclass(frozen=True)
class OpenQuestion:
    """A question without choices: the canonical true answer first, then its aliases.

    ``false_answers`` are published ones and may be lacking (``pairing`` borrows some then). None of
    them is ``normalised`` to the same as a true answer. ``context`` is as in a Question.
    """

    row_id: str
    question: str
    answers: tuple[str, ...]
    false_answers: tuple[str, ...]
    context: str = ""

    def __post_init__(self):
        if not self.answers:
            raise ValueError("an open question needs a true answer")
        if not all(answer.strip() for answer in (*self.answers, *self.false_answers)):
            raise ValueError("an answer is empty")
        true = {normalised(answer) for answer in self.answers}
        wrong = [answer for answer in self.false_answers if normalised(answer) in true]
        if wrong:
            raise ValueError(f"the false answer {wrong[0]!r} is a true one as well: leave it out")


@dataclass(frozen=True)
class Text:
    """A text that stands by itself: an article, a page, or a whole test set."""

    row_id: str
    text: str


Row = Question | OpenQuestion | Text


@dataclass(frozen=True)
class Corpus:
    """Rows with distinct ``row_id``.

    ``identity`` is JSON-able: name, source (AVSS_DATA_DIR, embedded, hub), path (in that source),
    split, revision (Hub commit or package version, None for a file), sha256 and n.
    """

    name: str
    rows: tuple[Question, ...] | tuple[OpenQuestion, ...] | tuple[Text, ...]
    identity: dict


def digest(*parts: str) -> str:
    """Row name for rows without an upstream id: 12 hex digits of their content's sha256."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


@lru_cache(maxsize=4096)  # a row's aliases are compared with many answers in turn
def normalised(answer: str) -> str:
    """Lower case, without punctuation, articles (a, an, the) and extra white space, as SQuAD does
    (Rajpurkar et al. 2016, arXiv 1606.05250, its evaluation script).

    Beyond SQuAD: Unicode's compatibility forms are made one (NFKC), its punctuation goes too, and
    articles stay where there is nothing else, so that "A" is an answer. As in SQuAD, punctuation
    leaves no space: "3.5" becomes "35", and "well-known" one word.
    """
    text = unicodedata.normalize("NFKC", answer).lower()
    words = "".join(
        c for c in text if c not in string.punctuation and unicodedata.category(c)[0] != "P"
    ).split()
    return " ".join([word for word in words if word not in ("a", "an", "the")] or words)


def overlaps(first: str, second: str) -> bool:
    """Whether the words of one answer stand, in a row, within the other's."""
    first, second = f" {normalised(first)} ", f" {normalised(second)} "
    return first in second or second in first


def shuffled_question(row_id: str, question: str, choices: Iterable[str], context: str) -> Question:
    """A question whose first choice is right, in an order that depends on ``row_id`` alone.

    For sets that always list the right answer first, where a model's taste for the first choice
    would pass for knowledge.
    """
    numbered = list(enumerate(choices))
    numbered.sort(key=lambda pair: hashlib.sha256(f"{row_id}:{pair[0]}".encode()).digest())
    answer = [number for number, _ in numbered].index(0)
    return Question(row_id, question, tuple(c for _, c in numbered), answer, context)


def split_rows(
    corpus: Corpus, *, calibration: float, development: float, seed: int
) -> dict[str, tuple]:
    """Disjoint parts "calibration", "development" and "evaluation" of a corpus.

    A row's part is decided by the hash of (seed, row_id), a number in [0, 1), alone: it stays when
    other rows come, go or move. ``calibration`` and ``development`` are fractions in [0, 1), their
    sum below 1, met in expectation; the rest is "evaluation". Inside a part the order is by hash
    too, so that the first n rows are a random sample.
    """
    if not (calibration >= 0 and development >= 0 and calibration + development < 1):
        raise UsageError(
            f"calibration {calibration} and development {development} must be fractions, neither "
            "negative, whose sum is below 1"
        )
    bounds = {
        "calibration": (0.0, calibration),
        "development": (calibration, calibration + development),
        "evaluation": (calibration + development, 1.0),
    }
    placed = sorted(((position(seed, row.row_id), row) for row in corpus.rows), key=itemgetter(0))
    return {
        part: tuple(row for position, row in placed if low <= position < high)
        for part, (low, high) in bounds.items()
    }


def position(seed: int, name: str) -> float:
    """A name's place, uniform in [0, 1), that depends on nothing but seed and name.

    52 bits, so that the quotient is exact and never rounds up to 1.
    """
    return int(hashlib.sha256(f"{seed}:{name}".encode()).hexdigest()[:13], 16) / 2**52
