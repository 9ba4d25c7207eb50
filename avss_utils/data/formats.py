"""Upstream formats: readers cut files into records, parsers make a record a Question or a Text.

A parser takes the flat records of Hugging Face's data sets as well as the nested ones of the
authors' own files. It raises KeyError for a missing column and ValueError for a broken row.
"""

import csv
import gzip
import io
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from avss_utils.data.rows import Question, Text, digest, shuffled_question
from avss_utils.errors import UsageError
from avss_utils.store.files import decoded

STORY_END = "<|endoftext|>"
DOCUMENT = re.compile(r'^<doc id="([^"]+)"[^\n]*>\n(.*?)^</doc>$', re.DOTALL | re.MULTILINE)


def read_text(path: Path) -> str:
    """The file's text with plain line ends, unpacked if it is named .gz; UsageError where it is not
    UTF-8.
    """
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8-sig") as file:  # with or without a byte order mark
            return file.read()
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise UsageError(f"{path} is not a whole gzip file: restore it") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UsageError(
            f"{path}, line {line}: not UTF-8 (byte {error.start} of the file): save the file in "
            "that encoding"
        ) from error


def read_json(path: Path) -> list[dict]:
    """A JSON list of records."""
    records = _decode(read_text(path), str(path))
    if not isinstance(records, list):
        raise UsageError(f"{path} must hold a JSON list of rows")
    return records


def read_jsonl(path: Path) -> Iterator[dict]:
    """One JSON record per line."""
    for number, line in enumerate(_lines(path), 1):
        yield _decode(line, f"{path}, row {number}")


def read_csv(path: Path) -> Iterator[dict]:
    """Comma-separated records under a header."""
    text = read_text(path)
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))  # or long texts are refused
    reader = csv.DictReader(io.StringIO(text), strict=True)
    try:
        names = reader.fieldnames or []
        if twice := [name for name in names if name and names.count(name) > 1]:
            raise UsageError(f"{path}: column {twice[0]!r} is there twice: give each its own name")
        yield from reader
    except csv.Error as error:
        raise UsageError(f"{path}, line {reader.line_num}: not valid CSV ({error})") from error


def read_jsonl_and_labels(path: Path, labels: Path) -> Iterator[dict]:
    """One JSON record per line, and its ``label`` on the same line of a second file."""
    records, answers = list(read_jsonl(path)), _lines(labels)
    if len(records) != len(answers):
        raise UsageError(f"{path} has {len(records)} rows, but {labels} has {len(answers)}")
    for record, label in zip(records, answers, strict=True):
        yield {**record, "label": label}


def read_sentences(path: Path) -> Iterator[dict]:
    """Tab-separated sentence and label, with or without a header."""
    for number, line in enumerate(_lines(path), 1):
        sentence, tab, label = line.rpartition("\t")
        if not tab:
            raise UsageError(f"{path}, row {number}: column 'label' is missing (tab-separated)")
        if (sentence, label) != ("sentence", "label"):
            yield {"sentence": sentence, "label": label}


def read_documents(path: Path) -> Iterator[dict]:
    """<doc id=...> elements, title on the first line; those that are a title only are left out."""
    text = read_text(path)
    found = DOCUMENT.findall(text)
    if len(found) != len(re.findall(r"^<doc ", text, re.MULTILINE)):
        raise UsageError(f"{path} has <doc> elements without an end or an id: restore the file")
    for row_id, body in found:
        if "\n" in body.strip():
            yield {"id": row_id, "text": body}


def read_stories(path: Path) -> Iterator[dict]:
    """Texts of several lines, each ended by <|endoftext|>; what stands after the last is cut off.

    A file of a given size ends in the middle of a text.
    """
    for text in read_text(path).split(STORY_END)[:-1]:
        if text.strip():
            yield {"text": text}


def read_pages(path: Path) -> Iterator[dict]:
    """One text per line."""
    for line in _lines(path):
        yield {"text": line}


def read_whole(path: Path) -> Iterator[dict]:
    """The whole file as one text."""
    yield {"id": path.stem, "text": read_text(path)}


def parse_sciq(record: dict) -> Question:
    """Distractors come after the right answer upstream, so the order is drawn anew."""
    question, right = text_column(record, "question"), text_column(record, "correct_answer")
    wrong = [text_column(record, f"distractor{n}") for n in (1, 2, 3)]
    row_id = digest(question, right)
    return shuffled_question(row_id, question, [right, *wrong], record.get("support") or "")


def parse_lettered(record: dict) -> Question:
    """ARC, OpenBookQA, CommonsenseQA: choices with letters or digits, and the answer's one."""
    nested = record["question"] if isinstance(record.get("question"), dict) else record
    stem = next((k for k in ("stem", "question_stem") if k in nested), "question")
    choices = nested["choices"]
    if isinstance(choices, dict):
        pairs = list(zip(choices["label"], choices["text"], strict=True))
    else:
        pairs = [(choice["label"], choice["text"]) for choice in choices]
    answer = _index([label for label, _ in pairs], record["answerKey"], "answerKey")
    texts = tuple(text.strip() for _, text in pairs)
    return Question(text_column(record, "id"), text_column(nested, stem), texts, answer)


def parse_piqa(record: dict) -> Question:
    """A goal and two ways to reach it. Goals repeat: the row's name holds the solution too."""
    choices = (text_column(record, "sol1"), text_column(record, "sol2"))
    answer = _index(["0", "1"], record["label"], "label")
    goal = text_column(record, "goal")
    return Question(digest(goal, choices[answer]), goal, choices, answer)


def parse_yes_no(record: dict) -> Question:
    """BoolQ: a passage and a question about it; one question is asked of several passages."""
    asked, passage = text_column(record, "question"), text_column(record, "passage")
    answer = _index(["False", "True"], record["answer"], "answer")
    text = f"{passage}\nQuestion: {asked}?"
    return Question(digest(asked, passage), text, ("no", "yes"), answer)


def parse_situation(record: dict) -> Question:
    """Social IQa: a situation, a question about it, and three answers."""
    question = f"{text_column(record, 'context')} {text_column(record, 'question')}"
    choices = tuple(text_column(record, f"answer{letter}") for letter in "ABC")
    answer = _index(["1", "2", "3"], record["label"], "label")
    return Question(digest(question, choices[answer]), question, choices, answer)


def parse_numbered(record: dict) -> Question:
    """MMLU: a question, its choices, and the number of the right one from 0."""
    question = text_column(record, "question")
    choices = tuple(str(choice).strip() for choice in record["choices"])
    answer = _index([str(n) for n in range(len(choices))], record["answer"], "answer")
    return Question(digest(question, *choices), question, choices, answer)


def parse_hellaswag(record: dict) -> Question:
    """The beginning of a description, headed by its activity, and four endings.

    Upstream's ``ind`` repeats over different rows, so that the row is named by its content.
    """
    start = f"{text_column(record, 'ctx_a')} {record['ctx_b'].capitalize()}"
    question = _without_brackets(f"{text_column(record, 'activity_label')}: {start}")
    choices = tuple(_without_brackets(ending) for ending in record["endings"])
    answer = _index([str(n) for n in range(len(choices))], record["label"], "label")
    return Question(digest(question, choices[answer]), question, choices, answer)


def parse_winogrande(record: dict) -> Question:
    """A sentence up to its blank, and as choices each option with the rest of the sentence.

    So a choice's summed log-probability covers the option and the ending that both share, which
    tells the options apart by how well the ending follows.
    """
    before, blank, after = text_column(record, "sentence").partition("_")
    if not (blank and before.strip()):
        raise ValueError("'sentence' must have text before its blank '_'")
    choices = tuple(f"{text_column(record, f'option{n}')}{after}" for n in (1, 2))
    answer = _index(["1", "2"], record["answer"], "answer")
    return Question(digest(record["sentence"], choices[answer]), before.strip(), choices, answer)


def parse_sentiment(record: dict) -> Question:
    """A sentence of a film review; named without its label, so that doubles never part."""
    sentence = text_column(record, "sentence")
    answer = _index(["0", "1"], record["label"], "label")
    return Question(digest(sentence), sentence, ("negative", "positive"), answer)


def parse_text(record: dict) -> Text:
    """A text, with its upstream id where it has one; white space around it is cut."""
    text = text_column(record, "text")
    return Text(str(record["id"]) if "id" in record else digest(text), text)


def parse_untouched(record: dict) -> Text:
    """A text whose leading and trailing line ends count."""
    text_column(record, "text")
    return Text(record["id"], record["text"])


def _lines(path: Path) -> list[str]:
    return [line for line in read_text(path).split("\n") if line.strip()]


def _decode(text: str, where: str) -> Any:
    try:
        return decoded(text)
    except ValueError as error:
        raise UsageError(f"{where}: not valid JSON ({error})") from error


def text_column(record: dict, column: str) -> str:
    """A column's text without the white space around it; KeyError or ValueError without one."""
    value = record[column]
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"column {column!r} must be a text that is not empty")
    return value.strip()


def _index(allowed: list[str], value: object, column: str) -> int:
    if str(value) not in allowed:
        raise ValueError(f"column {column!r} must be one of {', '.join(allowed)}, not {value!r}")
    return allowed.index(str(value))


def _without_brackets(text: str) -> str:
    """WikiHow's [header], [title], [step] marks removed, as HellaSwag is usually prepared."""
    text = re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". "))
    return text.replace("  ", " ").strip()
