"""A true and a false answer to the same question; and pairs that control for something else.

Everything drawn depends on the seed and on row names, never on the rows' order. Borrowed answers
come from the other rows that are passed: pair each part of a split by itself.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from avss_utils.data.rows import OpenQuestion, normalised, overlaps, position
from avss_utils.errors import UsageError

NEIGHBOURS = 10  # on each side in the order of length: a borrowed answer is one of twice as many
LONG = 6  # words; a longer answer is a sentence, whose type its question alone can tell

_MONTHS = "january|february|march|april|may|june|july|august|september|october|november|december"
_NUMBERS = (
    "zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|"
    "fifteen|sixteen|seventeen|eighteen|nineteen|twenty|thirty|forty|fifty|sixty|seventy|eighty|"
    "ninety|hundred|thousand|million|billion|dozen"
)
_AMOUNT = re.compile(r"\bhow (many|much|long|old|far|tall|high|big|deep|fast|often)\b", re.I)
_WHEN = re.compile(r"\bwhen\b|\b(what|which) (year|date|day|month|century|decade)\b", re.I)
_WHO = re.compile(r"\bwho(m|se)?\b", re.I)
_PLACES = "country|city|state|town|county|continent|island|place|river|capital"
_WHICH_PLACE = re.compile(rf"\b(what|which) (\w+ )?({_PLACES})\b", re.I)
_WHERE = re.compile(r"\bwhere\b", re.I)
_NUMBER = re.compile(rf"(\W*\d|\W*({_NUMBERS})\b)", re.I)
_DATE = re.compile(rf"\b({_MONTHS})\b.*\d|\d.*\b({_MONTHS})\b|\b1\d{{3}}s?\b|\b20\d\ds?\b", re.I)
_MONTH = re.compile(rf"({_MONTHS})|.*\bcentur(y|ies)\b.*", re.I)
_NAME = re.compile(r"[A-Z][\w.'’-]*( [A-Z][\w.'’-]*){1,2}")


@dataclass(frozen=True)
class Pair:
    """Two answers to one question; ``origin`` of the one in ``false``: published or borrowed."""

    question: OpenQuestion
    true: str
    false: str
    origin: str


def answer_type(answer: str, question: str) -> str:
    """person, place, number, date or other: a heuristic that looks at words and capitals alone.

    In this order: "how many" with a number; a year, a month, or "when" with a number; a number;
    the question's "which city" and the like, "who", "where"; and two or three capitalised words are
    taken for a person, which puts titles of works there too. Of an answer longer than ``LONG``
    words only the question is looked at.
    """
    short = len(answer.split()) <= LONG
    numeric = short and _NUMBER.match(answer)
    dated = short and (_DATE.search(answer) or _MONTH.fullmatch(answer))
    if _AMOUNT.search(question) and (numeric or not short):
        return "number"
    if dated or (_WHEN.search(question) and (numeric or not short)):
        return "date"
    if numeric:
        return "number"
    if _WHICH_PLACE.search(question):
        return "place"
    if _WHO.search(question):
        return "person"
    if _WHERE.search(question):
        return "place"
    return "person" if _NAME.fullmatch(answer) else "other"


def paired(rows: Sequence[OpenQuestion], *, seed: int) -> list[Pair]:
    """The canonical true answer of each row against a false one, in the rows' order.

    A published false answer where the row has one. Otherwise it is borrowed: the true answer of
    another row, of the same ``answer_type`` where there is one, and of about the same length, that
    neither holds nor is within a true answer of the row. Raises UsageError where no row can lend.
    """
    lent = _Lenders(rows, seed)
    pairs = []
    for row in rows:
        drawn = _drawn(row, row.false_answers, seed, "published") or lent.to(row, "false")
        origin = "published" if row.false_answers else "borrowed"
        pairs.append(Pair(row, row.answers[0], drawn[0], origin))
    return pairs


def false_against_false(rows: Sequence[OpenQuestion], *, seed: int) -> list[Pair]:
    """Placebo: two different false answers of each row, one of them in the place of the true.

    Both published where a row has two that differ, otherwise both borrowed as in ``paired``.
    """
    lent = _Lenders(rows, seed)
    pairs = []
    for row in rows:
        drawn, origin = _drawn(row, row.false_answers, seed, "placebo"), "published"
        if len(drawn) < 2:
            drawn, origin = lent.to(row, "placebo", n=2), "borrowed"
        pairs.append(Pair(row, drawn[0], drawn[1], origin))
    return pairs


def irrelevant(rows: Sequence[OpenQuestion], *, seed: int) -> list[Pair]:
    """Placebo: the true answer against the true answer of another question, borrowed for each row.

    What is borrowed is as in ``paired``, but another draw. It is false as an answer here, and a
    model may treat it as such: it was only never written as a falsehood.
    """
    lent = _Lenders(rows, seed)
    return [Pair(row, row.answers[0], lent.to(row, "irrelevant")[0], "borrowed") for row in rows]


class _Lenders:
    """The canonical answers of all rows by type, each type in order of length."""

    def __init__(self, rows: Sequence[OpenQuestion], seed: int):
        self.seed = seed
        self.types = {row.row_id: answer_type(row.answers[0], row.question) for row in rows}
        self.everyone = sorted(rows, key=self._order)
        self.by_type: dict[str, list[OpenQuestion]] = {}
        for row in self.everyone:
            self.by_type.setdefault(self.types[row.row_id], []).append(row)
        self.place = {row.row_id: n for same in self.by_type.values() for n, row in enumerate(same)}

    def to(self, row: OpenQuestion, purpose: str, *, n: int = 1) -> list[str]:
        """``n`` different answers of other rows that are false for this one."""
        same = self.by_type[self.types[row.row_id]]
        found = _different(self._around(same, self.place[row.row_id], row), 2 * NEIGHBOURS)
        if len(found) < n:  # a rare type: better another type than no answer
            start = self.everyone.index(row)
            found = _different([*found, *self._around(self.everyone, start, row)], 2 * NEIGHBOURS)
        if len(found) < n:
            raise UsageError(
                f"row {row.row_id!r} has too few false answers and no other row lends one: "
                "give its file distractors, or pass more rows"
            )
        return sorted(found, key=lambda text: _draw(self.seed, row, purpose, text))[:n]

    def _around(self, lenders: list[OpenQuestion], start: int, row: OpenQuestion) -> Iterator[str]:
        """Usable answers, those nearest in length first."""
        for step in range(1, len(lenders)):
            for place in (start - step, start + step):
                if 0 <= place < len(lenders):
                    text = lenders[place].answers[0]
                    if not any(overlaps(text, answer) for answer in row.answers):
                        yield text

    def _order(self, row: OpenQuestion) -> tuple:
        answer = row.answers[0]
        return len(answer.split()), len(answer), position(self.seed, row.row_id)


def _drawn(row: OpenQuestion, texts: Sequence[str], seed: int, purpose: str) -> list[str]:
    """The different ones of these texts in the order of the draw."""
    return _different(sorted(texts, key=lambda text: _draw(seed, row, purpose, text)), len(texts))


def _draw(seed: int, row: OpenQuestion, purpose: str, text: str) -> float:
    return position(seed, f"{row.row_id}:{purpose}:{text}")


def _different(texts: Iterable[str], most: int) -> list[str]:
    """The first ``most`` texts that no earlier one equals once normalised."""
    found: dict[str, str] = {}
    for text in texts:
        if len(found) == most:
            break
        found.setdefault(normalised(text), text)
    return list(found.values())
