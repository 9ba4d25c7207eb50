"""A user's own file as a data set: texts to take statistics from, or questions to answer.

Texts: ``.txt`` (paragraphs, parted by empty lines), ``.jsonl`` or ``.csv`` with a column ``text``.
Questions: ``.jsonl`` or ``.csv`` with columns ``question``, ``answer`` and ``distractors`` (a list,
in CSV parted by " | "). A column ``id`` may name the rows, each differently; otherwise their
content does. Open questions need no distractors, and may have aliases: columns ``question``,
``answer`` or ``answers`` (the canonical one first), perhaps ``distractors`` or ``false_answers``.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from avss_utils.data import formats
from avss_utils.data.rows import (
    Corpus,
    OpenQuestion,
    Question,
    Row,
    Text,
    digest,
    shuffled_question,
)
from avss_utils.data.sources import named_corpus, parse_records
from avss_utils.errors import UsageError
from avss_utils.store.files import at_home, file_sha256

SUFFIXES: dict[str, tuple[str, ...]] = {"text": (".txt", ".jsonl", ".csv")}
SUFFIXES |= {"question": (".jsonl", ".csv"), "open": (".jsonl", ".csv")}
SOURCE = "file"


def is_own(name: str) -> bool:
    """Whether a set's name is that of a user's file, there or not: data sets have no suffix."""
    return Path(name).suffix.lower() in SUFFIXES["text"]


def set_name(name: str) -> str:
    """What a set is called in tables and records: a file's name without its folder."""
    return Path(name).name if is_own(name) else name


def own_corpus(name: str, use: str) -> Corpus:
    """The rows of a user's file for this use (text, question, open).

    The corpus' identity holds the file's name and no folder. Raises UsageError, naming file and
    row, for another ending, a missing file or column, an empty or broken row, an id of two
    different rows, no rows, or an encoding that is not UTF-8.
    """
    path, allowed = at_home(name), SUFFIXES[use]
    what = "texts" if use == "text" else "questions"
    if path.suffix.lower() not in allowed:
        raise UsageError(
            f"{what} are read from {', '.join(allowed)} files, not from {name!r}: save it as one"
        )
    if not path.is_file():
        raise UsageError(f"there is no file {name!r} to read {what} from: correct the path")
    rows = parse_records(_named_once(use), _READERS[path.suffix.lower()](path), name)
    where = dict(source=SOURCE, path=path.name, split="all", revision=None)
    corpus = named_corpus(path.name, rows, **where, sha256=file_sha256(path))
    return replace(corpus, name=name)


def _paragraphs(path: Path) -> Iterator[dict]:
    lines: list[str] = []
    for line in [*formats.read_text(path).split("\n"), ""]:
        if line.strip():
            lines.append(line)
        elif lines:
            yield {"text": "\n".join(lines)}
            lines = []


_READERS: dict[str, Callable[[Path], Iterable[dict]]] = {
    ".txt": _paragraphs,
    ".jsonl": formats.read_jsonl,
    ".csv": formats.read_csv,
}


def _text(record: dict) -> Text:
    text = formats.text_column(_checked(record, ("text",)), "text")
    return Text(_row_id(record, text), text)


def _question(record: dict) -> Question:
    _checked(record, ("question", "answer", "distractors"))
    question, answer = (formats.text_column(record, column) for column in ("question", "answer"))
    distractors = _texts(record["distractors"], "distractors", "wrong answer")
    if answer in distractors:
        raise ValueError(
            f"the answer {answer!r} is among the distractors: leave only wrong ones there"
        )
    row_id = _row_id(record, question, answer, *distractors)
    return shuffled_question(row_id, question, [answer, *distractors], "")


def _open_question(record: dict) -> OpenQuestion:
    _checked(record, ("question",))
    question = formats.text_column(record, "question")
    given = [column for column in ("answer", "answers") if column in record]
    _checked(record, ("question", *(given or ["answer"])))
    answers = [text for column in given for text in _texts(record[column], column, "answer")]
    false_answers = [
        text
        for column in ("distractors", "false_answers")
        if record.get(column) not in (None, "", [])
        for text in _texts(record[column], column, "wrong answer")
    ]
    row_id = _row_id(record, question, *answers, *false_answers)
    return OpenQuestion(row_id, question, tuple(answers), tuple(false_answers))


def _texts(cell: object, column: str, what: str) -> list[str]:
    if isinstance(cell, str):
        cell = f" {cell} ".split(" | ")  # spaces outside, so that a bar at an end parts too
    cells = cell if isinstance(cell, list) else []
    texts = [text.strip() if isinstance(text, str) else "" for text in cells]
    if not texts or not all(texts):
        raise ValueError(
            f"column {column!r} must hold one {what} or more, none empty: a list of texts, "
            "in CSV parted by ' | '"
        )
    return texts


def _row_id(record: dict, *content: str) -> str:
    given = record.get("id")
    return digest(*content) if given in (None, "") else str(given)


def _named_once(use: str) -> Callable[[dict], Row]:
    """The parser; a name that an earlier, different row has is refused and not dropped."""
    parsers: dict[str, Callable[[dict], Row]] = {"text": _text, "question": _question}
    parse, earlier = parsers.get(use, _open_question), dict[str, Row]()

    def parse_new(record: dict) -> Row:
        row = parse(record)
        if earlier.setdefault(row.row_id, row) != row:
            raise ValueError(f"column 'id' repeats {row.row_id!r}: give every row its own")
        return row

    return parse_new


def _checked(record: dict, columns: tuple[str, ...]) -> dict:
    if not isinstance(record, dict):
        raise ValueError("a row must be an object with named columns")
    if None in record:  # where csv puts the cells beyond the header's columns
        raise ValueError("there are more cells than columns: quote a cell that holds a comma")
    lacking = [column for column in columns if column not in record]
    if lacking:
        needed = ", ".join(columns)
        raise ValueError(f"column {lacking[0]!r} is missing: name the columns {needed}")
    return record
