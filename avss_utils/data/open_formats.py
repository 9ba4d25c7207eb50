"""Upstream formats of open question sets: readers and parsers, as in ``formats``.

Answers come as lists from Hugging Face's data sets, and joined by ";" in CSV files.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from avss_utils.data.formats import read_text, text_column
from avss_utils.data.rows import OpenQuestion, digest, normalised, overlaps
from avss_utils.errors import UsageError

CANDIDATE_COLUMNS = ("QuestionID", "Question", "Sentence", "Label")
# NQ's and TriviaQA's machine-written false answers were cut at their first full stop.
CUT = re.compile(r"(^|\s)(St|Mr|Mrs|Ms|Dr|Jr|Sr|Lt|Col|Gen|Sgt|[A-Z]\.[A-Z])$|\S\s[A-Z]$")


def read_candidates(*paths: Path) -> Iterator[dict]:
    """WikiQA's files, a candidate sentence per line, as records of ``by_question``."""
    for path in paths:
        yield from by_question(_candidates(path))


def by_question(candidates: Iterable[dict]) -> list[dict]:
    """Candidates (question_id, question, answer, label) -> questions with at least one true one.

    Most of WikiQA's questions have none; its authors leave them out of the evaluation too.
    """
    found: dict[str, dict] = {}
    for row in candidates:
        question = {"id": row["question_id"], "question": row["question"], "true": [], "false": []}
        record = found.setdefault(row["question_id"], question)
        record["true" if int(row["label"]) else "false"].append(row["answer"])
    return [record for record in found.values() if record["true"]]


def parse_sciq(record: dict) -> OpenQuestion:
    """SciQ's right answer and its three distractors, under the row name of the closed set."""
    question, right = text_column(record, "question"), text_column(record, "correct_answer")
    wrong = [text_column(record, f"distractor{n}") for n in (1, 2, 3)]
    return _open(digest(question, right), question, [right], wrong, record.get("support") or "")


def parse_nq(record: dict) -> OpenQuestion:
    """Natural Questions' short answers in upstream's order, and the false one if there is one."""
    question, answers = text_column(record, "question"), answer_list(record, "answer")
    return _open(digest(question), question, answers, _machine_written(record, answers))


def parse_trivia(record: dict) -> OpenQuestion:
    """TriviaQA's answer and its aliases, and the false one if there is one.

    The CSV file lists the aliases in no order, so that the canonical one has to be guessed
    (``_common_name``): of the questions found in both, it is upstream's ``value`` in 80 %, and
    otherwise mostly another form of it.
    """
    question = _unquoted(text_column(record, "question"))
    answer = record["answer"]
    if isinstance(answer, dict):
        aliases = answer_list(answer, "aliases")
        name = normalised(text_column(answer, "value"))
        spelt = [a for a in aliases if normalised(a) == name] or [answer["value"].strip()]
        first = max(spelt, key=_natural)
    else:
        aliases = answer_list(record, "answer")
        first = _common_name(aliases)
    answers = [first, *aliases]
    return _open(digest(question), question, answers, _machine_written(record, answers))


def parse_truthful(record: dict) -> OpenQuestion:
    """TruthfulQA's best answers, right and wrong, each followed by the others of its side."""
    record = {str(column).lower().replace(" ", "_"): text for column, text in record.items()}
    question, best = text_column(record, "question"), text_column(record, "best_answer")
    answers = [best, *answer_list(record, "correct_answers")]
    wrong = answer_list(record, "incorrect_answers")
    if "best_incorrect_answer" in record:  # only the revision of 2025 names it
        wrong = [text_column(record, "best_incorrect_answer"), *wrong]
    return _open(digest(question), question, answers, wrong)


def parse_candidates(record: dict) -> OpenQuestion:
    """A record of ``by_question``: sentences that answer the question, and others of the page."""
    true, false = answer_list(record, "true"), answer_list(record, "false", least=0)
    return _open(text_column(record, "id"), text_column(record, "question"), true, false)


def parse_halueval(record: dict) -> OpenQuestion:
    """HaluEval's right and hallucinated answer. The second is four times as long in the mean."""
    question, right = text_column(record, "question"), text_column(record, "right_answer")
    wrong, context = text_column(record, "hallucinated_answer"), text_column(record, "knowledge")
    return _open(digest(question, right), question, [right], [wrong], context)


def parse_last_word(record: dict) -> OpenQuestion:
    """LAMBADA: a passage without its last word, which is the answer; whole, or as a request."""
    if "text" in record:
        before, _, word = text_column(record, "text").rpartition(" ")
        record = {"query": before, "choices": [word]}
    asked = record.get("doc", record)
    before, (word,) = text_column(asked, "query"), answer_list(asked, "choices")
    return _open(digest(f"{before} {word}"), before, [word], [])


def answer_list(record: dict, column: str, *, least: int = 1) -> list[str]:
    """A column's texts, a list or joined by ";"; ValueError where there are too few or no texts."""
    value = record[column]
    texts = value.split(";") if isinstance(value, str) else list(value)
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(f"column {column!r} must hold texts alone")
    texts = [text.strip() for text in texts if text.strip()]
    if len(texts) < least:
        raise ValueError(f"column {column!r} must hold one answer or more")
    return texts


def _candidates(path: Path) -> Iterator[dict]:
    header, *lines = [line for line in read_text(path).split("\n") if line.strip()] or [""]
    names = header.split("\t")
    lacking = [column for column in CANDIDATE_COLUMNS if column not in names]
    if lacking:
        raise UsageError(f"{path}, row 1: column {lacking[0]!r} is missing (tab-separated)")
    for number, line in enumerate(lines, 2):
        row = dict(zip(names, line.split("\t"), strict=False))
        found = [row.get(column, "").strip() for column in CANDIDATE_COLUMNS]
        if not all(found) or found[-1] not in ("0", "1"):
            raise UsageError(
                f"{path}, row {number}: columns {', '.join(CANDIDATE_COLUMNS)} must be filled, "
                "the last with 0 or 1"
            )
        yield dict(zip(("question_id", "question", "answer", "label"), found, strict=True))


def _open(
    row_id: str,
    question: str,
    answers: Iterable[str],
    false_answers: Iterable[str],
    context: str = "",
) -> OpenQuestion:
    """The row without repeated answers and without false ones that upstream also calls true."""
    answers = tuple(dict.fromkeys(answers))
    true = {normalised(answer) for answer in answers}
    false = (text for text in dict.fromkeys(false_answers) if normalised(text) not in true)
    return OpenQuestion(row_id, question, answers, tuple(false), context.strip())


def _unquoted(text: str) -> str:
    """The text of what was left quoted as a CSV cell, with its outer marks or without them."""
    if '""' in text and text[0] == text[-1] == '"':
        text = text[1:-1]
    return text.replace('""', '"')


def _machine_written(record: dict, answers: list[str]) -> list[str]:
    """The column ``false_answer``, unless it is cut short or holds, or is in, a true answer.

    Nobody has checked these: every tenth of NQ's and every third of TriviaQA's is a true answer.
    """
    if "false_answer" not in record:
        return []
    text = text_column(record, "false_answer")
    if CUT.search(text) or any(overlaps(text, answer) for answer in answers):
        return []
    return [text]


def _natural(alias: str) -> tuple:
    """Greater for the alias that a person would write: no codes, no capitals throughout."""
    plain = not alias.isupper() and not re.search(r"[(:%,]|[.,;]$", alias)
    capitalised = sum(word[0].isupper() for word in alias.split())
    return plain, capitalised, alias


def _common_name(aliases: list[str]) -> str:
    """The alias to show, of aliases in no order.

    Upstream's own answer is often added in capitals: then it is the alias spelt in both ways.
    Otherwise the alias whose words most other aliases share, and of these the shortest.
    """
    spellings = Counter(normalised(alias) for alias in aliases)
    shared = Counter(word for alias in aliases for word in set(normalised(alias).split()))
    shouted = {normalised(alias) for alias in aliases if alias.isupper() and len(alias) > 4}

    def order(alias: str) -> tuple:
        name = normalised(alias)
        words = name.split()  # none in an alias of punctuation alone
        support = sum(shared[word] for word in words) / max(1, len(words))
        plain, *rest = _natural(alias)
        return name in shouted and spellings[name] > 1, plain, support, -len(name), *rest

    return max(aliases, key=order)
