"""Files of one's own and data sets' files, spoilt: the rows that they say, or one sentence."""

import csv
import gzip
import io
import json

import pytest
from data_sources import SCIQ
from hostile import TEXTS, VALUES, as_bytes, examples, or_refused, spoilt, spoilt_bytes
from hypothesis import given
from hypothesis import strategies as st
from test_corpora import ARC, ARC_NESTED, BOOLQ, HELLASWAG, MMLU, WINOGRANDE
from test_open_corpora import HALU, TRUTHFUL, WIKI

from avss_utils.data import formats, own
from avss_utils.data.open_formats import read_candidates
from avss_utils.data.own import own_corpus
from avss_utils.data.registry import SPECS
from avss_utils.data.rows import OpenQuestion, Question, Text, normalised, position
from avss_utils.data.sources import parse_records

ROWS = {
    "text": [{"text": "The quick brown fox."}, {"text": "Which of these?", "id": "seven"}],
    "question": [
        {"question": "Which barks?", "answer": "a dog", "distractors": ["a cat", "an owl"]},
        {"question": "What is wet?", "answer": "water", "distractors": ["sand"], "id": "seven"},
    ],
    "open": [
        {"question": "Where?", "answers": ["The Hague", "Den Haag"], "false_answers": ["Delft"]},
        {"question": "Who?", "answers": ["Ann"], "id": 7},
    ],
}


def as_csv(rows: list) -> bytes:
    """Rows as CSV, as a spreadsheet writes them: lists parted by bars."""
    names = list(dict.fromkeys(name for row in rows if isinstance(row, dict) for name in row))
    lines = [
        [
            " | ".join(map(str, cell)) if isinstance(cell, list) else str(cell)
            for cell in (row.get(name, "") for name in names)
        ]
        for row in rows
        if isinstance(row, dict)
    ]
    text = io.StringIO()
    csv.writer(text).writerows([names, *lines])
    return text.getvalue().encode("utf-8", "surrogatepass")


def as_jsonl(rows: list) -> bytes:
    return b"".join(as_bytes(row) + b"\n" for row in rows)


def as_paragraphs(rows: list) -> bytes:
    return "\n\n".join(str(row) for row in rows).encode("utf-8", "surrogatepass")


FORMATS = {".csv": as_csv, ".jsonl": as_jsonl, ".txt": as_paragraphs}


@st.composite
def own_files(draw, use: str) -> tuple[str, bytes, bool]:
    """Suffix and content of a file for a use, and whether it is as it should be."""
    suffix = draw(st.sampled_from(own.SUFFIXES[use]))
    good = [row["text"] for row in ROWS["text"]] if suffix == ".txt" else ROWS[use]
    rows = draw(spoilt(good))
    whole = FORMATS[suffix](rows)
    content = draw(spoilt_bytes(whole, most=1))
    return suffix, content, (rows, content) == (good, whole)


def plain_rows(suffix: str, content: bytes) -> list[dict]:
    """What csv and json say of a file, by themselves."""
    text = content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    if suffix == ".jsonl":
        return [json.loads(line) for line in text.split("\n") if line.strip()]
    if suffix == ".csv":
        csv.field_size_limit(10**6)
        names, *rows = (row for row in csv.reader(io.StringIO(text)) if row)
        return [dict(zip(names, row, strict=False)) for row in rows]
    lines = [line if line.strip() else "" for line in text.split("\n")]
    return [{"text": part.strip("\n")} for part in "\n".join(lines).split("\n\n") if part.strip()]


def cells(value) -> list[str]:
    """The texts of a cell that may hold several."""
    if value in (None, "", []):
        return []
    return [
        text.strip() for text in (f" {value} ".split(" | ") if isinstance(value, str) else value)
    ]


def wanted(row: dict, use: str) -> tuple:
    """A row as the tests read it: what has to be found in the corpus."""
    if use == "text":
        return (row["text"].strip(),)
    question = row["question"].strip()
    if use == "question":
        return question, row["answer"].strip(), frozenset(cells(row["distractors"]))
    answers = [text for name in ("answer", "answers") for text in cells(row.get(name))]
    false = [text for name in ("distractors", "false_answers") for text in cells(row.get(name))]
    return question, tuple(answers), tuple(false)


def found(row: Text | Question | OpenQuestion) -> tuple:
    """The same of a corpus' row."""
    if isinstance(row, Text):
        return (row.text,)
    if isinstance(row, OpenQuestion):
        return row.question, row.answers, row.false_answers
    wrong = [text for number, text in enumerate(row.choices) if number != row.answer]
    return row.question, row.choices[row.answer], frozenset(wrong)


def check_usable(rows: tuple) -> None:
    """Every text and name of the rows can be hashed, split and tokenized."""
    for row in rows:
        assert 0 <= position(0, row.row_id) < 1
        for part in vars(row).values():
            for text in part if isinstance(part, tuple) else [part]:
                str(text).encode()


@pytest.mark.parametrize("use", list(own.SUFFIXES))
@examples(250)
@given(data=st.data())
def test_a_file_of_ones_own_is_what_it_says_or_refused(place, use, data):
    suffix, content, good = data.draw(own_files(use))
    path = place.here / f"own{suffix}"
    path.write_bytes(content)
    corpus = or_refused(own_corpus, str(path), use)
    if corpus is None:
        assert not good
        return
    check_usable(corpus.rows)
    expected = {}
    for row in plain_rows(suffix, content):
        content = wanted(row, use)
        expected[content if row.get("id") in (None, "") else str(row["id"])] = content
    assert list(map(found, corpus.rows)) == list(expected.values())


TRIVIA = {"question": "Who sang?", "answer": "Ann;ANN;Ann Lee", "false_answer": "Eve"}
TRIVIA_NESTED = {"question": "Who?", "answer": {"value": "Ann", "aliases": ["Ann", "ANN"]}}
WIKI_ROW = {"id": "Q1", "question": "Who?", "true": ["Ann did."], "false": ["Eve did."]}
TRUE = dict(
    zip(TRUTHFUL.strip().split(","), ("t", "c", "q", "a", "b", "a; c", "b; d"), strict=True)
)
RECORDS = {
    "sciq": [SCIQ],
    "sciq_open": [SCIQ],
    "arc_easy": [ARC],
    "commonsense_qa": [ARC_NESTED],
    "piqa": [{"goal": "Open a jar", "sol1": "Twist", "sol2": "Sing", "label": 1}],
    "boolq": [BOOLQ],
    "social_i_qa": [
        {"context": "Ann fell.", "question": "How?", "label": "1"}
        | {f"answer{letter}": letter for letter in "ABC"}
    ],
    "mmlu": [MMLU],
    "hellaswag": [HELLASWAG],
    "winogrande": [WINOGRANDE],
    "sst2": [{"sentence": "good film", "label": 1}],
    "c4": [{"text": "A page."}],
    "wikitext2": [{"id": "x", "text": " A text \n"}],
    "nq_open": [{"question": "who", "answer": ["Ann", "Eve"], "false_answer": "Paul"}],
    "trivia_qa": [TRIVIA, TRIVIA_NESTED],
    "truthful_qa": [TRUE],
    "wiki_qa": [WIKI_ROW],
    "halueval_qa": [HALU],
    "lambada": [{"text": "the fox jumps over"}, {"query": "the fox", "choices": ["jumps"]}],
}


@pytest.mark.parametrize("name", list(RECORDS))
@examples(20)
@given(data=st.data())
def test_a_row_of_a_named_set_is_a_row_or_refused(place, name, data):
    record = data.draw(st.sampled_from(RECORDS[name]))
    rows = data.draw(spoilt([record], values=TEXTS | VALUES))
    (path := place.here / "named.jsonl").write_bytes(as_jsonl(rows))
    parsed = or_refused(parse_records, SPECS[name].parse, formats.read_jsonl(path), "file")
    if parsed is None:
        assert rows != [record]
        return
    check_usable(parsed)
    for row in parsed:
        if isinstance(row, OpenQuestion):
            true = {normalised(answer) for answer in row.answers}
            assert not true & {normalised(answer) for answer in row.false_answers}


TEXT = b"The quick brown fox.\nWhich of these?\n"
FILES = {
    "own.csv": (formats.read_csv, as_csv(ROWS["question"])),
    "own.jsonl": (formats.read_jsonl, as_jsonl(ROWS["question"])),
    "own.json": (formats.read_json, as_bytes(ROWS["question"])),
    "own.json.gz": (formats.read_json, gzip.compress(as_bytes(ROWS["question"]), mtime=0)),
    "own.tsv": (formats.read_sentences, b"sentence\tlabel\ngood film\t1\n"),
    "own.utf8": (formats.read_documents, b'<doc id="1" url="x">\nTitle\n\nText.\n</doc>\n'),
    "own.txt": (formats.read_stories, TEXT + b"<|endoftext|>\nMore\n<|endoftext|>"),
    "pages.utf8": (formats.read_pages, TEXT),
    "wikiqa.tsv": (read_candidates, f"{WIKI}Q1\twho\tD1\tt\tS1\tAnn did.\t1\n".encode()),
}


@pytest.mark.parametrize("name", list(FILES))
@examples(20)
@given(data=st.data())
def test_a_file_of_a_named_set_is_read_or_refused(place, name, data):
    read, good = FILES[name]
    content = data.draw(spoilt_bytes(good))
    (path := place.here / name).write_bytes(content)
    records = or_refused(lambda: list(read(path)))
    if records is None:
        assert content != good
        return
    assert all(isinstance(record, dict) for record in records) or name.startswith("own.json")
