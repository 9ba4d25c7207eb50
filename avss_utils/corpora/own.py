"""A user's own file as a data set: texts to take statistics from, or questions to answer.

Texts: ``.txt`` (paragraphs, parted by empty lines), ``.jsonl`` or ``.csv`` with a column ``text``.
Questions: ``.jsonl`` or ``.csv`` with columns ``question``, ``answer`` and ``distractors`` (a list,
in CSV parted by " | "). A column ``id`` may name the rows, each differently; otherwise their
content does.
"""

import csv
import io
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from avss_utils.corpora import formats
from avss_utils.corpora.rows import Corpus, Question, Text, digest, shuffled_question
from avss_utils.corpora.sources import parse_records
from avss_utils.runs import UsageError, file_sha256

TEXT_SUFFIXES = (".txt", ".jsonl", ".csv")
QUESTION_SUFFIXES = (".jsonl", ".csv")
QUESTION_COLUMNS = ("question", "answer", "distractors")
SOURCE = "file"


def is_own(name: str) -> bool:
    """Whether a set's name is that of a user's file, there or not: data sets have no suffix."""
    return Path(name).suffix.lower() in TEXT_SUFFIXES


def set_name(name: str) -> str:
    """What a set is called in tables and records: a file's name without its folder."""
    return Path(name).name if is_own(name) else name


def check_own(name: str, *, text: bool) -> Path:
    """The file, if it is there and of a kind that holds texts, or else questions; or UsageError."""
    path, allowed = Path(name).expanduser(), TEXT_SUFFIXES if text else QUESTION_SUFFIXES
    what = "texts" if text else "questions"
    if path.suffix.lower() not in allowed:
        raise UsageError(
            f"{what} are read from {', '.join(allowed)} files, not from {name!r}: save it as one"
        )
    if not path.is_file():
        raise UsageError(f"there is no file {name!r} to read {what} from: correct the path")
    return path


def own_corpus(name: str, *, text: bool) -> Corpus:
    """The rows of a user's file; its identity holds the file's name and no folder.

    Raises UsageError, naming file and row, for a missing column, an empty or broken row, an id of
    two different rows, no rows, or an encoding that is not UTF-8.
    """
    path = check_own(name, text=text)
    parse = _named_once(_text if text else _question)
    rows = parse_records(parse, _READERS[path.suffix.lower()](path), name)
    identity = {
        "name": path.name,
        "source": SOURCE,
        "path": path.name,
        "split": "all",
        "revision": None,
        "sha256": file_sha256(path),
        "n": len(rows),
    }
    return Corpus(name, rows, identity)


def _paragraphs(path: Path) -> Iterator[dict]:
    lines: list[str] = []
    for line in [*formats.read_text(path).split("\n"), ""]:
        if line.strip():
            lines.append(line)
        elif lines:
            yield {"text": "\n".join(lines)}
            lines = []


def _csv_records(path: Path) -> Iterator[dict]:
    text = formats.read_text(path)
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))  # or long texts are refused
    reader = csv.DictReader(io.StringIO(text), strict=True)
    try:
        yield from reader
    except csv.Error as error:
        raise UsageError(f"{path}, line {reader.line_num}: not valid CSV ({error})") from error


_READERS: dict[str, Callable[[Path], Iterable[dict]]] = {
    ".txt": _paragraphs,
    ".jsonl": formats.read_jsonl,
    ".csv": _csv_records,
}


def _text(record: dict) -> Text:
    text = formats.text_column(_checked(record, ("text",)), "text")
    return Text(_row_id(record, text), text)


def _question(record: dict) -> Question:
    _checked(record, QUESTION_COLUMNS)
    question, answer = (formats.text_column(record, column) for column in ("question", "answer"))
    distractors = _distractors(record["distractors"])
    if answer in distractors:
        raise ValueError(
            f"the answer {answer!r} is among the distractors: leave only wrong ones there"
        )
    row_id = _row_id(record, question, answer, *distractors)
    return shuffled_question(row_id, question, [answer, *distractors], "")


def _distractors(cell: object) -> list[str]:
    if isinstance(cell, str):
        cell = f" {cell} ".split(" | ")  # spaces outside, so that a bar at an end parts too
    found = cell if isinstance(cell, list) else []
    texts = [text.strip() if isinstance(text, str) else "" for text in found]
    if not texts or not all(texts):
        raise ValueError(
            "column 'distractors' must hold one wrong answer or more, none empty: a list of texts, "
            "in CSV parted by ' | '"
        )
    return texts


def _row_id(record: dict, *content: str) -> str:
    given = record.get("id")
    return digest(*content) if given in (None, "") else str(given)


def _named_once(parse: Callable[[dict], Question | Text]) -> Callable[[dict], Question | Text]:
    """``parse``, but a name that an earlier, different row has is refused and not dropped."""
    earlier: dict[str, Question | Text] = {}

    def parse_new(record: dict) -> Question | Text:
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
